# Segments of the local TCP, out of hk0.
from hooker.engine.worker cimport worker

cdef bint take_segments(worker *w, int most) noexcept nogil   # False: nothing is left to be read
