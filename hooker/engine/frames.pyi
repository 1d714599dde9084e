from typing import Any

import numpy as np

def frame_dtype() -> np.dtype[np.void]: ...

class FrameError(ValueError): ...

class FrameParser:
    def parse(self, data: bytes | bytearray | memoryview) -> np.ndarray[Any, np.dtype[np.void]]: ...
