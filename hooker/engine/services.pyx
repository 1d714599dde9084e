"""Services that have accepted a flow: only to those does a client commit itself without waiting.

And only where the *same run of the same engine* is met again. Its number stands in the SYN-ACK's option; the OPEN_ACK proves
that who sent it has seen that SYN-ACK, so the association, too, is known to lead there. Behind one address may be several
hosts that TCP and UDP are spread over differently, and an engine may have been started again: whoever answered the handshake
and whoever would get the OPEN are then not the same, and the OPEN must have a way back. Numbers are 16 bits: one in 65,535
such pairs has the same one.

A cache without chains: a service that is displaced waits a round trip more.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset
from hooker.includes.hk cimport hk_event, hk_peer
from hooker.vtl.api cimport vtl_assoc
from hooker.vtl.endpoint cimport vtl_set_user, vtl_user
from hooker.engine.worker cimport SERVICES, service, worker


cdef inline uint32_t place(const hk_event *est) noexcept nogil:
    cdef uint64_t half[2]
    cdef uint64_t h
    memcpy(half, est.key.remote_ip, 16)
    h = (half[0] ^ half[1] ^ est.key.remote_port) * <uint64_t>0x9E3779B97F4A7C15
    return (h >> 40) & (SERVICES - 1)


cdef inline uint16_t instance_of(const hk_event *est) noexcept nogil:
    """The run of the engine that answered the SYN: the first two octets of its nonce. 0: it did not answer."""
    cdef uint16_t instance
    memcpy(&instance, &est.server_nonce, sizeof(instance))
    return instance


cdef inline void fill(service *s, const hk_event *est) noexcept nogil:
    memset(s, 0, sizeof(service))
    memcpy(s.peer.ip, est.key.remote_ip, 16)
    s.peer.port = est.key.remote_port
    s.instance = instance_of(est)


cdef bint service_accepts(const worker *w, const hk_event *est, const vtl_assoc *assoc) noexcept nogil:
    cdef service s
    fill(&s, est)
    return (s.instance != 0 and <uintptr_t>vtl_user(assoc) == s.instance
            and memcmp(&w.services[place(est)], &s, sizeof(s)) == 0)


cdef void service_accepted(worker *w, const hk_event *est, vtl_assoc *assoc) noexcept nogil:
    if instance_of(est):
        fill(&w.services[place(est)], est)
        vtl_set_user(assoc, <void *><uintptr_t>instance_of(est))


cdef void service_rejected(worker *w, const hk_event *est) noexcept nogil:
    cdef service s
    fill(&s, est)
    if memcmp(&w.services[place(est)].peer, &s.peer, sizeof(s.peer)) == 0:
        memset(&w.services[place(est)], 0, sizeof(service))
