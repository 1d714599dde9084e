# Explicit congestion notification: may packets say that they understand it, and what was marked (RFC 9000 13.4).

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:                     # the two bits of the IP header
    ECN_ECT0 = 2
    ECN_CE = 3

cdef enum ecn_state:
    ECN_TESTING = 0            # the first packets carry ECT(0)
    ECN_UNKNOWN = 1            # they do not, until an ACK says what became of the first ones
    ECN_CAPABLE = 2
    ECN_FAILED = 3             # the path or the peer does not keep the bits

cdef enum:
    ECN_TEST_PACKETS = 10      # RFC 9000 A.4


cdef struct Ecn:
    uint8_t state              # ecn_state
    uint32_t tested            # packets sent with ECT(0) in the test
    uint64_t sent              # packets sent with ECT(0)
    uint64_t received[4]       # packets, by the two bits
    uint64_t told_ect0, told_ce   # the peer's latest counts
    uint64_t marked            # packets the path marked, as far as we were told


cdef inline uint8_t ecn_mark(Ecn *e) noexcept nogil:
    """The bits for the next packet."""
    if e.state == ECN_TESTING:
        e.tested += 1
        if e.tested == ECN_TEST_PACKETS:
            e.state = ECN_UNKNOWN
    elif e.state != ECN_CAPABLE:
        return 0
    e.sent += 1
    return ECN_ECT0


cdef inline uint64_t ecn_on_ack(Ecn *e, bint counted, uint64_t ect0, uint64_t ce, uint64_t acked) noexcept nogil:
    """An ACK that raised the largest number, `acked` packets in it having carried ECT(0): how many were marked."""
    cdef uint64_t marked
    if e.state == ECN_FAILED:
        return 0
    if not counted:
        if acked > 0:
            e.state = ECN_FAILED
        return 0
    if (ect0 < e.told_ect0 or ce < e.told_ce or ect0 + ce > e.sent
            or ect0 - e.told_ect0 + ce - e.told_ce < acked):
        e.state = ECN_FAILED
        return 0
    marked = ce - e.told_ce
    e.told_ect0, e.told_ce = ect0, ce
    e.marked += marked
    if acked > 0:
        e.state = ECN_CAPABLE
    return marked
