MARK_BASE: int
MARK_OTHER: int
MARK_OWN: int

def layout() -> dict[str, dict[str, int]]: ...
