# What firewalls and NAT between the hosts see of engaged flows: docs/flow.md, 9.
from libc.stdint cimport uint32_t, uint64_t
from hooker.engine.worker cimport flow, worker
from hooker.flow.messages cimport Message

cdef enum trail_choice:
    TRAIL_NEVER
    TRAIL_AUTO                  # where the two engines see different addresses
    TRAIL_ALWAYS

cdef uint32_t trail_ends(const flow *f) noexcept nogil        # what OPEN and ACCEPT say of the addresses; never 0
cdef bint trail_wanted(const worker *w) noexcept nogil        # whatever the two engines see
cdef void trail_heard(worker *w, flow *f, const Message *m) noexcept nogil    # a proven OPEN or ACCEPT, or ENGAGED
cdef void trail_begin(flow *f) noexcept nogil                 # an epoch: nothing of it has gone by the transport yet
cdef void trail_expect(worker *w, flow *f) noexcept nogil     # it begins early
cdef void trail_note(worker *w, flow *f, bint asked) noexcept nogil           # its numbers may have moved; asked: or a kernel probes
cdef void trail_flush(worker *w) noexcept nogil               # before the datagrams of this round go
cdef void trail_end(worker *w, flow *f) noexcept nogil        # the connection has ended, for both
