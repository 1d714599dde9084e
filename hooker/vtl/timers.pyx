"""The clocks of one association: handshake, loss and probes, delayed ACK, pacing, liveness, idleness."""

from libc.stdint cimport UINT64_MAX, uint64_t
from hooker.vtl.core cimport *
from hooker.vtl.handshake cimport handshake_timer
from hooker.vtl.liveness cimport liveness_deadline, liveness_on_timer
from hooker.vtl.outcome cimport requeue_for_probe
from hooker.vtl.packet_in cimport packets_lost_by_time
from hooker.vtl.path cimport path_on_timer
from hooker.vtl.pmtu cimport pmtu_on_timer
from hooker.vtl.recovery cimport recovery_deadline


cdef uint64_t assoc_deadline(const Assoc *a) noexcept nogil:
    cdef uint64_t d = UINT64_MAX
    if a.state == A_DEAD:
        return d
    if a.state != A_UP:
        d = min(a.hs_next, a.hs_started + a.ep.cfg.handshake_timeout)
    else:
        d = liveness_deadline(a)
    if a.probes == 0 or a.rec.loss_time != 0:
        d = min(d, recovery_deadline(&a.rec))
    if a.ack_deadline != 0 and not a.ack_now:
        d = min(d, a.ack_deadline)
    if a.pace_until != 0:
        d = min(d, a.pace_until)
    if a.other.next != 0 and not a.other.due:
        d = min(d, a.other.next)
    if a.pmtu.at != 0 and a.state == A_UP:
        d = min(d, a.pmtu.at)
    return d


cdef void on_recovery_timer(Assoc *a, uint64_t now) noexcept nogil:
    if a.rec.loss_time != 0:
        packets_lost_by_time(a, now)
        return
    a.rec.pto_count += 1
    a.probes = a.rel.ops.probes
    requeue_for_probe(a)
    assoc_ready(a)


cdef void assoc_on_timer(Assoc *a, uint64_t now) noexcept nogil:
    if a.state == A_DEAD:
        return
    if a.state == A_UP:
        liveness_on_timer(a, now)
    else:
        handshake_timer(a, now)
    if a.state == A_DEAD:
        return
    if now >= recovery_deadline(&a.rec) and (a.probes == 0 or a.rec.loss_time != 0):
        on_recovery_timer(a, now)
    if a.ack_deadline != 0 and now >= a.ack_deadline and not a.ack_now:
        a.ack_now = True
        assoc_ready(a)
    if a.pace_until != 0 and now >= a.pace_until:
        a.pace_until = 0
        assoc_ready(a)
    if a.other.next != 0 and now >= a.other.next:
        path_on_timer(a, now)
    if a.pmtu.at != 0 and a.state == A_UP and now >= a.pmtu.at:
        pmtu_on_timer(a, now)
