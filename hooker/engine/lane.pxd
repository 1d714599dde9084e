# Whether the lane is open: the engine's own connection through hk0, one for each family.
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from hooker.engine.worker cimport flow, lane, worker
from hooker.tcp.segment cimport Segment

cdef void lanes_init(worker *w) noexcept nogil
cdef void lanes_close(worker *w) noexcept nogil
cdef void lanes_rest(worker *w) noexcept nogil                # until the rule is there: looks are over
cdef void lanes_ruled(worker *w) noexcept nogil               # it is
# Looks from now on: connections to that address (4 or 16 bytes) and port, which nobody ever gets.
cdef void lane_watch(worker *w, uint8_t version, const uint8_t *address, uint16_t service,
                     int device) noexcept nogil                       # bound to that, or 0: led by the rule
cdef void lane_forget(worker *w, uint8_t version) noexcept nogil     # looking says nothing
cdef void lane_restored(worker *w, uint8_t version) noexcept nogil    # what leads to hk0 was missing
cdef void lane_needed(worker *w, const flow *f) noexcept nogil        # it has a flow
cdef void lane_doubt(worker *w, const flow *f) noexcept nogil         # its segments do not come, or again
cdef bint lane_hear(worker *w, const Segment *s) noexcept nogil       # False: not of its connection
cdef uint64_t lanes_deadline(const worker *w) noexcept nogil
cdef bint lanes_due(worker *w) noexcept nogil                         # True: one is blocked since now
cdef bint is_blocked(const worker *w, const flow *f) noexcept nogil       # or its service
cdef uint64_t blocked_until(const worker *w, const flow *f) noexcept nogil     # the next look is over then
