from typing import ClassVar

class Wire:
    SIZE: ClassVar[int]
    def __init__(self, fd: int) -> None: ...
    def configure(
        self,
        way: int,
        *,
        rate: float,
        delay: float,
        jitter: float,
        loss: float,
        burst: float,
        reorder: float,
        reorder_by: float,
        queue: int,
    ) -> None: ...
    def counters(self, way: int) -> dict[str, float]: ...
    def relay(self, tap_a: int, tap_b: int, mtu: int, seed: int) -> None: ...
