"""The engine that takes segments: hk0, the twin, the flow protocol and VTL's channels put together."""

from __future__ import annotations
