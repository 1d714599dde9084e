"""How marked segments reach the engine.

``Device`` is a TUN device, ``Way`` the rule and routes to it, ``Lane`` an engine's own of both;
``require_open`` sends something along it.
"""

from __future__ import annotations

from hooker.tun.device import Device, check_device
from hooker.tun.lane import Lane
from hooker.tun.opening import require_open
from hooker.tun.way import Way

__all__ = ["Device", "Lane", "Way", "check_device", "require_open"]
