# Does the path swallow large packets while smaller ones get through? Evidence for pmtu.pyx (RFC 8899 4.3).
#
# Large is what exceeds the base. A lost large packet counts unless one at least as large, sent after it, arrived:
# such a loss has another reason. One that arrives later clears all that were not smaller. What was sent before the
# size last changed is no evidence: of a window sent into a hole, the first three losses have told it all.
# A full queue, too, lets small packets pass for a moment. So one of the losses must be of a packet that was sent
# after the first of them was found, or the PTO has run out before these were found.

from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t

cdef enum:
    BASE_DATAGRAM = 1200       # bytes of UDP payload that every path has to carry, RFC 9000 14
    HOLE_LOSSES = 3            # as many as MAX_PROBES, RFC 8899 5.1.2


cdef struct Hole:
    uint32_t lost              # large packets, without one as large that arrived
    uint32_t lost_size         # bytes, the smallest of them
    uint64_t again             # packet number, the first sent after the first of them was found
    bint lasting               # one of those is lost as well, or the PTO ran out
    uint64_t since             # packet number, the first that is evidence
    uint32_t arrived_size      # bytes, the largest that arrived ...
    uint64_t arrived_pn        # ... and the newest of that size


cdef inline void hole_clear(Hole *h) noexcept nogil:
    h.lost = 0
    h.lost_size = UINT32_MAX
    h.lasting = False


cdef inline void hole_reset(Hole *h, uint64_t next_pn) noexcept nogil:
    h.since = next_pn
    h.arrived_size = 0
    h.arrived_pn = 0
    hole_clear(h)


cdef inline void hole_acked(Hole *h, uint64_t pn, uint32_t size, bint after_pto) noexcept nogil:
    if size > BASE_DATAGRAM:
        if size >= h.arrived_size:
            h.arrived_size = size
            h.arrived_pn = max(h.arrived_pn, pn)
        if size >= h.lost_size or h.lost == 0:
            hole_clear(h)
    h.lasting = h.lasting or after_pto


cdef inline void hole_lost(Hole *h, uint64_t pn, uint32_t size, uint64_t next_pn) noexcept nogil:
    if pn >= h.since and size > BASE_DATAGRAM and (size > h.arrived_size or pn > h.arrived_pn):
        if h.lost == 0:
            h.again = next_pn
        h.lasting = h.lasting or pn >= h.again
        h.lost += 1
        h.lost_size = min(h.lost_size, size)


cdef inline bint hole_found(const Hole *h) noexcept nogil:
    return h.lost >= HOLE_LOSSES and h.lasting
