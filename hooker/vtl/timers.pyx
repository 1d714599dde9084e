"""The clocks of one association: handshake, loss and probes, delayed ACK, pacing, liveness, idleness."""

from libc.stdint cimport UINT64_MAX, uint64_t
from hooker.vtl.api cimport *
from hooker.vtl.core cimport *
from hooker.vtl.handshake cimport handshake_timer, say_close
from hooker.vtl.packet_in cimport packets_lost_by_time, requeue_for_probe
from hooker.vtl.path cimport path_on_timer
from hooker.vtl.pmtu cimport pmtu_on_timer
from hooker.vtl.recovery cimport recovery_deadline, recovery_pto

cdef enum:
    PTO_PROBES = 2             # datagrams, RFC 9002 6.2.4
    PROVE_TIME = 300000000     # ns an association in doubt has to show a datagram
    PROVE_PINGS = 3
    SURPLUS_IDLE = 1000000000  # ns beside dead_after


cdef inline uint64_t idle_after(const Assoc *a) noexcept nogil:
    cdef const vtl_config *cfg = &a.ep.cfg
    return min(cfg.idle_after, cfg.dead_after + SURPLUS_IDLE) if a.surplus else cfg.idle_after


cdef uint64_t liveness_deadline(const Assoc *a) noexcept nogil:
    cdef const vtl_config *cfg = &a.ep.cfg
    cdef uint64_t d = UINT64_MAX
    if a.unanswered != 0:
        d = a.unanswered + cfg.dead_after
    elif assoc_in_use(a) and not a.ping_due:
        d = a.last_recv + cfg.keepalive
    if not assoc_in_use(a):
        d = min(d, a.idle_since + idle_after(a))
    if a.prove_by != 0:
        d = min(d, min(a.prove_by, a.prove_ping))
    return d


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


cdef void check_liveness(Assoc *a, uint64_t now) noexcept nogil:
    cdef const vtl_config *cfg = &a.ep.cfg
    if a.unanswered != 0 and now - a.unanswered >= cfg.dead_after:
        assoc_fail(a, VTL_DOWN_TIMEOUT)
    elif a.prove_by != 0 and now >= a.prove_by:
        assoc_fail(a, a.doubt)
    elif not assoc_in_use(a) and now - a.idle_since >= idle_after(a):
        say_close(a, VTL_DOWN_IDLE)
        assoc_fail(a, VTL_DOWN_IDLE)
    elif a.prove_by != 0 and now >= a.prove_ping:
        a.prove_ping += (a.prove_by - a.prove_ping) // 2 + 1
        ping(a)
    elif assoc_in_use(a) and a.unanswered == 0 and now - a.last_recv >= cfg.keepalive:
        ping(a)


cdef void ping(Assoc *a) noexcept nogil:
    a.ping_due = True
    a.probes = max(a.probes, 1)                 # also past a full window
    assoc_ready(a)


cdef void assoc_doubt(Assoc *a, uint32_t reason, uint64_t now) noexcept nogil:
    cdef uint64_t time = max(PROVE_TIME, 2 * recovery_pto(&a.rec))
    if a.prove_by == 0:
        a.doubt = reason
        a.prove_by = now + time
        a.prove_ping = now + time // PROVE_PINGS
        ping(a)


cdef void assoc_ask(Assoc *a, uint64_t now) noexcept nogil:
    """Is the peer still there? Its silence means no more than it would have anyway."""
    if now - a.hinted_at >= PROVE_TIME:
        a.hinted_at = now
        ping(a)


cdef void on_recovery_timer(Assoc *a, uint64_t now) noexcept nogil:
    if a.rec.loss_time != 0:
        packets_lost_by_time(a, now)
        return
    a.rec.pto_count += 1
    a.probes = PTO_PROBES
    requeue_for_probe(a)
    assoc_ready(a)


cdef void assoc_on_timer(Assoc *a, uint64_t now) noexcept nogil:
    if a.state == A_DEAD:
        return
    if a.state == A_UP:
        check_liveness(a, now)
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
