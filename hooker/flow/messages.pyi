from collections.abc import Sequence
from typing import Any

TYPES: dict[str, int]

class MessageError(ValueError): ...

def checksum(data: bytes) -> int: ...
def checksum_in_software(data: bytes) -> int: ...
def encode(
    kind: str,
    *,
    epoch: int = ...,
    flags: int = ...,
    position: int = ...,
    token: int = ...,
    own_token: int = ...,
    proof: bytes = ...,
    edge: int = ...,
    serial: int = ...,
    duplicates: int = ...,
    tsval: int = ...,
    tsecr: int = ...,
    sack: Sequence[tuple[int, int]] = ...,
    data: bytes = ...,
    checked: bool = ...,
) -> bytes: ...
def decode(data: bytes, *, checked: bool = ...) -> dict[str, Any]: ...
