# Does the path swallow large packets while smaller ones get through? Evidence for pmtu.pyx (RFC 8899 4.3).
#
# Large is what exceeds the base. A lost large packet counts unless one at least as large, sent after it, arrived:
# such a loss has another reason. One that arrives later clears all that were not smaller. What was sent before the
# size last changed is no evidence: of a window sent into a hole, the first three losses have told it all.

from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t

cdef enum:
    BASE_DATAGRAM = 1200       # bytes of UDP payload that every path has to carry, RFC 9000 14
    HOLE_LOSSES = 3            # as many as MAX_PROBES, RFC 8899 5.1.2


cdef struct Hole:
    uint32_t lost              # large packets, without one as large that arrived
    uint32_t lost_size         # bytes, the smallest of them
    uint64_t since             # packet number, the first that is evidence
    uint32_t arrived_size      # bytes, the largest that arrived ...
    uint64_t arrived_pn        # ... and the newest of that size


cdef inline void hole_reset(Hole *h, uint64_t next_pn) noexcept nogil:
    h.since = next_pn
    h.lost = h.arrived_size = 0
    h.lost_size = UINT32_MAX
    h.arrived_pn = 0


cdef inline void hole_acked(Hole *h, uint64_t pn, uint32_t size) noexcept nogil:
    if size > BASE_DATAGRAM:
        if size >= h.arrived_size:
            h.arrived_size = size
            h.arrived_pn = max(h.arrived_pn, pn)
        if size >= h.lost_size:
            h.lost = 0
            h.lost_size = UINT32_MAX


cdef inline void hole_lost(Hole *h, uint64_t pn, uint32_t size) noexcept nogil:
    if pn >= h.since and size > BASE_DATAGRAM and (size > h.arrived_size or pn > h.arrived_pn):
        h.lost += 1
        h.lost_size = min(h.lost_size, size)


cdef inline bint hole_found(const Hole *h) noexcept nogil:
    return h.lost >= HOLE_LOSSES
