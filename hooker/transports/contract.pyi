class Handle:
    name: str
