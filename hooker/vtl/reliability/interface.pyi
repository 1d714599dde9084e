from typing import NamedTuple

class Known(NamedTuple):
    code: int
    repairs: bool
    complete: bool
    limits: tuple[str, ...]

def names() -> list[str]: ...
def codes() -> dict[str, int]: ...
def known() -> dict[str, Known]: ...
