from hooker.transports.contract import Handle
from hooker.transports.makers import Settings

def make(settings: Settings) -> Handle: ...
