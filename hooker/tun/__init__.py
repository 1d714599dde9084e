"""How marked segments reach the engine: ``Device``, a TUN device, and ``Way``, the rule and routes to it."""

from __future__ import annotations

from hooker.tun.device import Device
from hooker.tun.way import Way

__all__ = ["Device", "Way"]
