REASONS: tuple[str, ...]
"""Of the worker, by number; "": there is none."""

FLOW_SIZE: int
"""Bytes that an idle flow costs the engine, besides its channel."""

ACTIVE_SIZE: int
"""And while it moves."""
