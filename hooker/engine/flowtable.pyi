from typing import Final

REASONS: Final[tuple[str, ...]]

def fill_free(fd: int, count: int) -> None: ...
