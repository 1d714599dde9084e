"""A carrier as Python holds it: see contract.pxd."""

CONTRACT = CARRIER_CONTRACT


cdef class CarrierHandle:
    """A carrier that was made, and is in no transport yet or in one. `name`: as users say it."""

    def __init__(self):
        raise TypeError("made by a carrier's module")

    cdef int hold(self, str name, Carrier *c) except -1:
        if c == NULL:
            raise MemoryError(f"carrier {name}")
        self.name, self.c = name, c
        return 0

    def __dealloc__(self):
        if self.c != NULL and not self.used:
            self.c.ops.free(self.c)
