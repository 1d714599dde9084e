"""An association's turn in a batch: its handshake, other paths, a probe of the path's size; then packets."""

from libc.stdint cimport uint32_t, uint64_t
from hooker.vtl.api cimport *
from hooker.vtl.builder cimport batch_room, sealed_room
from hooker.vtl.core cimport *
from hooker.vtl.keys cimport keys_overhead
from hooker.vtl.packet_out cimport build_init, build_mtu_probe, build_path_frame, packets_build
from hooker.vtl.pmtu cimport pmtu_due
from hooker.vtl.recovery cimport recovery_pto
from hooker.vtl.wire cimport *

cdef enum:
    PATH_DATAGRAM = 1200       # bytes, RFC 9000 8.2.1
    MIN_WAIT = 20000000        # ns before a challenge is repeated; doubles


cdef void send_challenge(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    cdef OtherPath *p = &a.other
    cdef uint64_t size = min(a.max_datagram, PATH_DATAGRAM), allowed = AMPLIFICATION * p.received, n
    if not p.proven:
        size = min(size, allowed - p.sent if p.sent < allowed else 0)
    p.next = now + (max(recovery_pto(&a.rec), MIN_WAIT) << min(p.tries, 8))
    p.due = False
    if size < DATA_HEADER + PATH_FRAME + keys_overhead(a):
        a.ep.count.amplification_limited += 1
        return
    n = build_path_frame(a, b, &p.to, FR_PATH_CHALLENGE, p.challenge, <uint32_t>size, False, now)
    if n == 0:                                  # no memory: once more when it is time
        return
    p.sent += n
    p.sent_at = now
    p.tries += 1


cdef void send_response(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    """On the path in use the PING beside it says: I am still here."""
    cdef bint here = same_addr(&a.answer.to, &a.peer)
    cdef uint32_t size = max(a.answer.size, DATA_HEADER + PATH_FRAME + here + keys_overhead(a))
    cdef uint32_t n = build_path_frame(a, b, &a.answer.to, FR_PATH_RESPONSE, a.answer.data, size, here, now)
    a.answer.due = False
    if same_addr(&a.answer.to, &a.other.to):
        a.other.sent += n


cdef bint build_paths(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    if a.answer.due:
        if not batch_room(b):
            return False
        send_response(a, b, now)
    if a.other.due:
        if not batch_room(b) or not sealed_room(a, b):
            return False
        send_challenge(a, b, now)
    return True


cdef bint build_probe(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    cdef Pmtu *p = &a.pmtu
    if not batch_room(b) or (a.keys != NULL and b.sealed_len + p.probe > b.sealed_cap):
        return False
    if build_mtu_probe(a, b, p.probe, now):
        p.on_its_way = True
        p.sent += 1
    return True


cdef bint turn_build(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    if a.hs_send:
        if not batch_room(b):
            return False
        build_init(a, b)
    assoc_touch(a)
    if (a.other.due or a.answer.due) and not (sealed_room(a, b) and build_paths(a, b, now)):
        return False
    if pmtu_due(a) and not build_probe(a, b, now):
        return False
    return packets_build(a, b, now)
