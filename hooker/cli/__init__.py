"""The ``hooker`` command: options, output, and the life of ``run`` and ``up``."""
