"""A transport as Python holds it: see contract.pxd."""

from libc.stdint cimport uint8_t


cdef class Handle:
    """A transport that was made, and is in no worker yet or in one. `name`: as users say it."""

    def __init__(self):
        raise TypeError("made by hooker.transports.makers.make()")

    cdef dict counted(self):
        return {}

    cdef dict row(self, const uint8_t *row):
        return {}

    cdef dict ingress(self, int known_fd, int states_fd):
        return None

    cdef str failure(self):
        return ""

    def __dealloc__(self):
        if self.t != NULL and not self.used:
            self.t.ops.free(self.t)
