"""Whether the peer is still there: keepalive, doubt, the end of an association that is idle or not answered."""

from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from hooker.vtl.answers cimport say_close
from hooker.vtl.api cimport *
from hooker.vtl.core cimport *
from hooker.vtl.recovery cimport recovery_pto

cdef enum:
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


cdef void liveness_on_timer(Assoc *a, uint64_t now) noexcept nogil:
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
