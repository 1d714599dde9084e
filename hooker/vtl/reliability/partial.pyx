"""``partial``: a lost block goes again so often, or for so long; then the receiver is told what it misses.

Given up is only what lies below bytes that have arrived, so there is always something behind a hole.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from hooker.vtl.reliability.interface cimport (
    LIMIT_DEADLINE, LIMIT_REPEATS, MANY, Reliability, reliability_fill, reliability_ops,
)


cdef bint gives_up(const Reliability *r, uint32_t repeats, uint64_t age) noexcept nogil:
    if r.limits.deadline > 0 and age >= r.limits.deadline:
        return True
    return r.limits.repeats < MANY and repeats >= r.limits.repeats


cdef reliability_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.limits = LIMIT_REPEATS | LIMIT_DEADLINE
OPS.repairs = True
OPS.fec = True
OPS.gives_up = gives_up
reliability_fill(&OPS, b"partial", 4)
