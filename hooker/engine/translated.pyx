"""A service whose address this host translates (kube-proxy does) shows itself by its first segment.

It comes out of hk0 with the addresses of the backend, and so belongs to no flow; but it has the local
address and port of a socket of which a segment is awaited, and a number in its turn. That flow need not
wait for its own timers. Only the socket that was asked last is known for each place of the table; another
one's segment is nobody's, and its flow finds out by silence (cut.pyx).
"""

from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memcmp
from hooker.engine.flows cimport flow_by_id
from hooker.engine.worker cimport AWAITED, flow, worker
from hooker.flow.machine cimport FL_PINNED, FL_SEEN, ST_ARMED, ST_EARLY
from hooker.tcp.numbers cimport FAR
from hooker.tcp.segment cimport Segment, address_size


cdef void translated_ask(worker *w, const flow *f) noexcept nogil:
    w.awaited[f.ends.local_port & (AWAITED - 1)] = f.id


cdef inline bint is_awaited(const flow *f) noexcept nogil:
    return f.f.state == ST_ARMED or (f.f.state == ST_EARLY and not f.f.flags & FL_SEEN)


cdef inline bint is_near(const flow *f, const Segment *s) noexcept nogil:
    cdef int32_t off = <int32_t>(s.seq - (f.local_isn + f.f.snd_nxt))
    return -<int32_t>FAR < off < <int32_t>FAR


cdef flow *translated_of(worker *w, const Segment *s) noexcept nogil:
    cdef flow *f = flow_by_id(w, w.awaited[s.src_port & (AWAITED - 1)])
    if f == NULL or not is_awaited(f) or f.f.flags & FL_PINNED:
        return NULL
    if f.ends.local_port != s.src_port or f.ends.version != s.version or not is_near(f, s):
        return NULL
    if memcmp(f.ends.local, s.src, address_size(s.version)) != 0:
        return NULL
    return f
