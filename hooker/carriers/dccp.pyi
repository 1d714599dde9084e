from hooker.carriers import Settings
from hooker.carriers.contract import CarrierHandle

def make(settings: Settings) -> CarrierHandle: ...
