CONTRACT: int

class CarrierHandle:
    name: str
