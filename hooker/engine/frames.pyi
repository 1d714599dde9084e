from typing import Any, Final

import numpy as np

FRAME_DTYPE: Final[np.dtype[np.void]]

class FrameError(ValueError): ...

class FrameParser:
    def parse(self, data: bytes | bytearray | memoryview) -> np.ndarray[Any, np.dtype[np.void]]: ...
