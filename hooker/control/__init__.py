"""The control plane: kernel programs, routes, threads, keys, and what undoes all of it."""
