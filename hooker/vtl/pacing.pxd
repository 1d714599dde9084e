# Pacing: a token bucket refilled at the controller's rate (RFC 9002 7.7).

from libc.stdint cimport uint64_t
from hooker.vtl.core cimport Assoc

cdef enum:
    PACING_MIN_RTT = 1000000   # ns; below, timers are coarser than the path
    BURST_PACKETS = 10         # RFC 9002 7.7
    WAKE_BYTES = 64 << 10      # a GSO send


cdef inline double pacing_rate(const Assoc *a) noexcept nogil:
    """Bytes per ns; 0: not paced."""
    if not a.rec.has_rtt or a.rec.srtt < PACING_MIN_RTT:
        return 0
    if a.cc.pacing_rate > 0:
        return <double>a.cc.pacing_rate / 1e9
    return (2.0 if a.cc.w.cwnd < a.cc.w.ssthresh else 1.25) * <double>a.cc.w.cwnd / <double>a.rec.srtt


cdef inline bint pacing_ready(Assoc *a, uint64_t now) noexcept nogil:
    """False: nothing before a.pace_until."""
    cdef double rate = pacing_rate(a), burst, wait
    a.pace_until = 0
    if rate == 0:
        return True
    burst = max(<double>(BURST_PACKETS * a.max_datagram), rate * 1e6)
    a.tokens = min(a.tokens + rate * <double>(now - a.tokens_at), burst)
    a.tokens_at = now
    if a.tokens >= 0:
        return True
    wait = (min(rate * 5e5, <double>WAKE_BYTES) - a.tokens) / rate    # wake up for half a ms of data
    a.pace_until = now + <uint64_t>wait + 1
    return False


cdef inline void pacing_spend(Assoc *a, uint64_t bytes) noexcept nogil:
    a.tokens -= <double>bytes
