REASONS: tuple[str, ...]
"""Of the worker, by number; "": there is none."""

FLOW_SIZE: int
ACTIVE_SIZE: int
"""Bytes that an idle flow costs the engine, besides its channel."""
