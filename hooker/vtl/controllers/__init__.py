"""Congestion controllers, one a file. Each registers itself by name when it is imported."""
