from hooker.transports.children import Plan
from hooker.transports.contract import Handle
from hooker.transports.makers import Settings

def make(name: str, wire_id: int, what: Plan, settings: Settings, relays: bool = False) -> Handle: ...
