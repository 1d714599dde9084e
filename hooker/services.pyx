"""Services that have accepted a flow: only to those does a client commit itself without waiting.

A listener with TCP_DEFER_ACCEPT, for one, has no connection before data comes, and data comes only once the flow is
decided. A cache without chains: who is displaced waits a round trip more.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.includes.hk cimport hk_event, hk_peer
from hooker.worker cimport SERVICES, worker


cdef inline uint32_t place(const hk_event *est) noexcept nogil:
    cdef uint64_t half[2]
    cdef uint64_t h
    memcpy(half, est.key.remote_ip, 16)
    h = (half[0] ^ half[1] ^ est.key.remote_port) * <uint64_t>0x9E3779B97F4A7C15
    return (h >> 40) & (SERVICES - 1)


cdef inline void fill(hk_peer *p, const hk_event *est) noexcept nogil:
    memset(p, 0, sizeof(hk_peer))
    memcpy(p.ip, est.key.remote_ip, 16)
    p.port = est.key.remote_port


cdef bint service_accepts(const worker *w, const hk_event *est) noexcept nogil:
    cdef hk_peer p
    fill(&p, est)
    return memcmp(&w.services[place(est)], &p, sizeof(p)) == 0


cdef void service_accepted(worker *w, const hk_event *est) noexcept nogil:
    fill(&w.services[place(est)], est)


cdef void service_rejected(worker *w, const hk_event *est) noexcept nogil:
    if service_accepts(w, est):
        memset(&w.services[place(est)], 0, sizeof(hk_peer))
