from hooker.carriers.contract import CarrierHandle
from hooker.transports.contract import Handle
from hooker.transports.makers import Settings

def make(name: str, wire_id: int, carrier: CarrierHandle, settings: Settings) -> Handle: ...
