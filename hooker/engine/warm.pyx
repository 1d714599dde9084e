"""Services that have engaged a flow: the next connection to one is engaged from its first byte.

The kernel program decides, for a segment may follow ESTABLISHED at once: it marks a socket when the map `hk_warm` has the
service and the *same run of the same engine* has answered the SYN. Its number is in the SYN-ACK's nonce; that ACCEPT proves
who has seen that SYN-ACK says that our association leads there, too. Behind one address may be several hosts, and an engine
may have been started again: then the engine here finds out, and the flow begins on TCP.

A service whose early data is not acknowledged in time (it defers its accepts, its backlog is full, the path loses much) is left
alone for a while: COOL, twice as long each time, until one has been engaged.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from hooker.engine.flows cimport remote_ip
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ROLE_CLIENT
from hooker.includes.bpf cimport BPF_MAP_DELETE_ELEM, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, hk_bpf_elem
from hooker.includes.hk cimport hk_peer, hk_warm

cdef enum:
    COOL = 1000000000          # ns
    COOLEST = 6                # doublings


cdef void name_of(const flow *f, hk_peer *out) noexcept nogil:
    memset(out, 0, sizeof(hk_peer))
    remote_ip(f, out.ip)
    out.port = f.ends.remote_port


cdef void service_engaged(worker *w, flow *f) noexcept nogil:
    cdef hk_peer who
    cdef hk_warm now
    if w.warm_fd < 0 or w.hold_for or f.f.role != ROLE_CLIENT or not f.speaks or f.p == NULL:
        return
    f.p.speaks = f.speaks
    if f.bits & F_EARLY and not f.cooled:
        return                          # the map says so already
    name_of(f, &who)
    if not f.bits & F_EARLY and hk_bpf_elem(BPF_MAP_LOOKUP_ELEM, w.warm_fd, &who, &now, 0) == 0 and now.instance == f.speaks:
        return                          # it is there, or cools
    memset(&now, 0, sizeof(now))
    now.instance = f.speaks
    hk_bpf_elem(BPF_MAP_UPDATE_ELEM, w.warm_fd, &who, &now, 0)


cdef void service_cools(worker *w, flow *f) noexcept nogil:
    cdef hk_peer who
    cdef hk_warm now
    if w.warm_fd < 0 or not f.bits & F_EARLY:
        return
    name_of(f, &who)
    if hk_bpf_elem(BPF_MAP_LOOKUP_ELEM, w.warm_fd, &who, &now, 0) < 0 or now.since > w.now:
        return                          # others of the same moment have said so
    now.since = w.now + (<uint64_t>COOL << now.cooled)
    if now.cooled < COOLEST:
        now.cooled += 1
    hk_bpf_elem(BPF_MAP_UPDATE_ELEM, w.warm_fd, &who, &now, 0)
    w.n.services_cooled += 1


cdef void service_forget(worker *w, flow *f) noexcept nogil:
    cdef hk_peer who
    name_of(f, &who)
    hk_bpf_elem(BPF_MAP_DELETE_ELEM, w.warm_fd, &who, NULL, 0)
