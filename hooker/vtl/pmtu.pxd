from libc.stdint cimport uint32_t, uint64_t
from hooker.vtl.blackhole cimport BASE_DATAGRAM
from hooker.vtl.core cimport A_UP, Assoc
from hooker.vtl.recovery cimport AckResult

# largest datagram of a handshake
cdef uint32_t pmtu_first(const Assoc *a) noexcept nogil
# the handshake proved that size
cdef void pmtu_begin(Assoc *a, uint32_t size, uint64_t now) noexcept nogil
# another path: nothing is known of it
cdef void pmtu_restart(Assoc *a) noexcept nogil
# what became of probes and large packets
cdef void pmtu_on_result(Assoc *a, const AckResult *r, uint64_t now) noexcept nogil
# nobody will hear what became of a probe on its way
cdef void pmtu_abandon(Assoc *a) noexcept nogil
cdef bint pmtu_due(const Assoc *a) noexcept nogil                # a probe may be sent now
cdef void pmtu_on_timer(Assoc *a, uint64_t now) noexcept nogil


cdef enum:
    PROBE_SHARE = 4            # of the window that data may be asked to leave room for a probe


cdef inline bint pmtu_waits(const Assoc *a) noexcept nogil:
    """A probe is to be sent, and would be heard of: something of ours arrives."""
    return (a.pmtu.probe > 0 and not a.pmtu.on_its_way and a.state == A_UP and a.rec.largest_acked > 0
            and a.rec.pto_count == 0)


cdef inline uint32_t pmtu_room(const Assoc *a) noexcept nogil:
    """Bytes of the window that data leaves to a probe larger than itself, which would never find them free."""
    return a.pmtu.probe if pmtu_waits(a) and PROBE_SHARE * <uint64_t>a.pmtu.probe <= a.cc.w.cwnd else 0


cdef inline uint32_t packet_limit(const Assoc *a) noexcept nogil:
    """Bytes of the next datagram. What asks after a timeout passes also where large packets vanish."""
    return min(a.max_datagram, <uint32_t>BASE_DATAGRAM) if a.probes > 0 and a.rec.pto_count > 0 else a.max_datagram
