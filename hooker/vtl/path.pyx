"""The peer's address changes, as behind a NAT that forgets (RFC 9000 9).

1. A new packet from elsewhere is taken, and its address is challenged: PATH_CHALLENGE, at most three
   times as many bytes as came from there. Everything else still goes to the old address.
2. PATH_RESPONSE proves the address. The association moves there if no newer packet came from the old one.
3. What was on its way is sent again. Another address, not only another port: the path's RTT and window too
   begin anew (RFC 9000 9.4).
4. The old address is challenged in turn. A peer that is still there answers from there, with a newer packet,
   and the association moves back at once: a forwarded or forged packet steals nothing (RFC 9000 9.3).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset
from hooker.vtl.api cimport *
from hooker.vtl.controllers.interface cimport congestion_free, congestion_init
from hooker.vtl.core cimport *
from hooker.vtl.ecn cimport ECN_TESTING
from hooker.vtl.outcome cimport packets_abandon
from hooker.vtl.pmtu cimport pmtu_restart
from hooker.vtl.recovery cimport recovery_pto, recovery_rtt
from hooker.vtl.registry cimport assoc_readdress
from hooker.vtl.wire cimport *

cdef enum:
    GIVE_UP = 1000000000       # ns; three of these or of PTO, RFC 9000 8.2.4
    UNKNOWN_RTT = 333000000    # ns, RFC 9002 6.2.2
    PROVEN_FOR = 10000000000   # ns that an address we left needs no new proof


cdef void challenge(Assoc *a, const vtl_addr *to, bint proven, uint64_t now) noexcept nogil:
    cdef OtherPath *p = &a.other
    cdef vtl_addr address = to[0]
    memset(p, 0, sizeof(OtherPath))
    p.to = address
    p.proven = proven
    p.since = now
    p.due = True
    a.ep.sink.random(a.ep.sink.ctx, <uint8_t *>&p.challenge, sizeof(p.challenge))
    assoc_ready(a)


cdef void forget_estimates(Assoc *a, uint64_t rtt) noexcept nogil:
    """RFC 9000 9.4; rtt 0: unknown."""
    pmtu_restart(a)
    congestion_free(&a.cc)
    congestion_init(&a.cc, a.ep.congestion, a.max_datagram)
    a.rec.has_rtt = False
    a.rec.srtt = UNKNOWN_RTT
    a.rec.rttvar = UNKNOWN_RTT // 2
    if rtt > 0:
        recovery_rtt(&a.rec, rtt, 0)
    a.ecn.state = ECN_TESTING
    a.ecn.tested = 0
    a.fec.acked = a.fec.lost = 0
    a.tokens = 0
    a.pace_until = 0


cdef void move(Assoc *a, uint64_t rtt, uint64_t now) noexcept nogil:
    cdef vtl_addr old = a.peer
    packets_abandon(a)
    assoc_readdress(a, &a.other.to)
    if memcmp(old.ip, a.peer.ip, sizeof(old.ip)) != 0:
        forget_estimates(a, rtt)
    a.moves += 1
    challenge(a, &old, True, now)


cdef void path_seen(Assoc *a, const vtl_addr *src, uint64_t pn, size_t n, bint newest, uint64_t now) noexcept nogil:
    """A good packet came from elsewhere; newest: of all, and it was not there only to probe."""
    cdef OtherPath *p = &a.other
    if not same_addr(&p.to, src):
        if not newest:
            return
        challenge(a, src, False, now)
    p.received += n
    p.newest = max(p.newest, pn)
    if newest and p.proven and now - p.since < PROVEN_FOR:
        move(a, 0, now)
    elif newest and p.next == 0 and not p.due:
        p.proven = False                        # it gave no answer, or long ago
        p.since = now
        p.tries = 0
        p.due = True
    assoc_ready(a)


cdef void path_on_challenge(Assoc *a, uint64_t data) noexcept nogil:
    a.answer.to = a.ep.source[0]
    a.answer.to.zero = 0
    a.answer.data = data
    a.answer.size = min(a.ep.source_size, a.max_datagram)
    a.answer.due = True
    assoc_ready(a)


cdef void path_on_response(Assoc *a, uint64_t data, uint64_t now) noexcept nogil:
    cdef OtherPath *p = &a.other
    if p.tries == 0 or p.next == 0 or data != p.challenge:
        return
    p.next = 0
    p.due = False
    if p.proven:                                # the address we left: only a newer packet leads back
        p.since = now
        return
    p.proven = True
    a.ep.count.paths_proven += 1
    if largest_received(a) <= p.newest:
        move(a, now - (p.sent_at if p.tries == 1 else p.since), now)
    p.since = now


cdef void path_on_timer(Assoc *a, uint64_t now) noexcept nogil:
    cdef OtherPath *p = &a.other
    if now - p.since < 3 * max(recovery_pto(&a.rec), GIVE_UP):
        p.due = True
        assoc_ready(a)
        return
    if not p.proven:
        a.ep.count.paths_failed += 1
    memset(p, 0, sizeof(OtherPath))
