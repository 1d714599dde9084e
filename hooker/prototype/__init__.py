"""The process in which a user's class runs, and the base classes (docs/prototypes.md).

Nothing of it runs in the engine, which starts it by its name (``hooker.transports.children``).
"""
