from hooker.transports.contract import Handle
from hooker.transports.makers import Settings

def make(name: str, wire_id: int, protocol: int, settings: Settings) -> Handle: ...
