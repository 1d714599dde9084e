class CarrierHandle:
    name: str
