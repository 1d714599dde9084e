"""How large datagrams may be: Datagram Packetization Layer PMTU discovery (RFC 8899, RFC 9000 14.3).

Each side does it for what it sends. ``Assoc.max_datagram`` is the size in use (PLPMTU).

1. A probe is a PING and PADDING in a datagram of the size in question. It is acknowledged like any packet; its
   loss is no congestion, and nothing in it is sent again. One is on its way at a time, and only when the
   congestion window, if it counts, has room for it and something of ours has been acknowledged.
2. BASE: the base (1,200 bytes) is in use and a probe confirms it. So begins a path whose IP address is new, or
   one that swallowed large packets. A handshake has proven its size: it goes straight to the search.
3. SEARCHING: the largest size first; then sizes of well-known links, by bisection; then any. A size is
   refused when MAX_PROBES of it were lost.
4. COMPLETE: no size is left between those that passed and those that did not. Search again after RAISE.
5. ERROR: probes of the base are lost too. They go on; without one acknowledged for ``dead_after`` the
   association is down, for VTL needs the base.
6. A black hole (blackhole.pxd) leads to BASE from any state. Nobody else does: ICMP is not asked, so an
   attacker off the path has no say.
"""

from libc.stdint cimport uint32_t, uint64_t
from hooker.includes.ip cimport is_v4
from hooker.vtl.api cimport *
from hooker.vtl.blackhole cimport BASE_DATAGRAM, hole_found, hole_reset
from hooker.vtl.controllers.interface cimport congestion_resize
from hooker.vtl.core cimport *
from hooker.vtl.recovery cimport AckResult
from hooker.vtl.reliability.interface cimport reliability_may_send

cdef enum:
    MAX_PROBES = 3             # RFC 8899 5.1.2
    RAISE = 600                # s, PMTU_RAISE_TIMER, RFC 8899 5.1.1
    NANOSECONDS = 1000000000
    MORE6 = 20                 # bytes by which IPv6's header is larger than IPv4's
    ETHERNET = 1500            # bytes; RFC 894
    STEP = 16                  # bytes; a smaller gain is worth no more probes
    JUMBO_STEP = 4             # above Ethernet: this part of the size
    LINKS = 11

# MTUs of links that are common: jumbo frames, clouds, Ethernet, PPPoE, 6in4, VXLAN, WireGuard, tunnels, the least of IPv6
cdef uint32_t[LINKS] LINK_MTU = [1280, 1400, 1420, 1440, 1450, 1460, 1480, 1492, 1500, 8500, 9000]


cdef inline uint32_t headers(const Assoc *a) noexcept nogil:
    return a.ep.cfg.overhead if is_v4(a.peer.ip) else a.ep.cfg.overhead + MORE6


cdef inline uint32_t largest(const Assoc *a) noexcept nogil:
    return a.ep.cfg.max_datagram + a.ep.cfg.overhead - headers(a)


cdef uint32_t pmtu_first(const Assoc *a) noexcept nogil:
    cdef uint32_t first = a.ep.cfg.first_datagram
    return min(first + a.ep.cfg.overhead - headers(a), largest(a)) if first > 0 else largest(a)


cdef void use(Assoc *a, uint32_t size) noexcept nogil:
    a.max_datagram = size
    congestion_resize(&a.cc, size)
    hole_reset(&a.rec.hole, a.rec.next_pn)


cdef uint32_t known_between(const Assoc *a, uint32_t low, uint32_t high) noexcept nogil:
    """The payload of the link in the middle of those between; 0: none."""
    cdef uint32_t i, first = 0, n = 0
    for i in range(LINKS):
        if low < LINK_MTU[i] - headers(a) < high:
            first = i if n == 0 else first
            n += 1
    return LINK_MTU[first + n // 2] - headers(a) if n > 0 else 0


cdef uint32_t next_size(const Assoc *a) noexcept nogil:
    """What to probe next; 0: the search is over."""
    cdef uint32_t low = a.max_datagram, high = a.pmtu.refused, known
    if high == 0:
        return a.pmtu.most if low < a.pmtu.most else 0
    known = known_between(a, low, high)
    if known > 0:
        return known
    return (low + high) // 2 if high - low > (STEP if high <= ETHERNET else low // JUMBO_STEP) else 0


cdef void search(Assoc *a, uint64_t now) noexcept nogil:
    cdef Pmtu *p = &a.pmtu
    p.tries = 0
    p.probe = next_size(a)
    p.state = PMTU_SEARCHING if p.probe > 0 else PMTU_COMPLETE
    p.at = now + <uint64_t>RAISE * NANOSECONDS if p.probe == 0 and a.max_datagram < p.most else 0
    assoc_ready(a)


cdef void pmtu_begin(Assoc *a, uint32_t size, uint64_t now) noexcept nogil:
    cdef Pmtu *p = &a.pmtu
    use(a, size)
    p.refused = 0
    p.most = largest(a) if size >= BASE_DATAGRAM else size    # who has said so has no larger ones
    search(a, now)


cdef void pmtu_restart(Assoc *a) noexcept nogil:
    cdef Pmtu *p = &a.pmtu
    use(a, min(a.max_datagram, <uint32_t>BASE_DATAGRAM))
    p.state = PMTU_BASE
    p.most = largest(a) if p.most >= BASE_DATAGRAM else p.most    # the address may be of the other family
    p.probe = a.max_datagram
    p.tries = p.refused = 0
    p.at = 0
    assoc_ready(a)


cdef void pmtu_abandon(Assoc *a) noexcept nogil:
    a.pmtu.on_its_way = False


cdef void passed(Assoc *a, uint64_t now) noexcept nogil:
    if a.pmtu.probe > a.max_datagram:
        use(a, a.pmtu.probe)
    search(a, now)


cdef void failed(Assoc *a, uint64_t now) noexcept nogil:
    cdef Pmtu *p = &a.pmtu
    p.tries += 1
    if p.tries < MAX_PROBES:
        return
    if p.state == PMTU_SEARCHING:
        p.refused = p.probe
        search(a, now)
    elif p.state == PMTU_BASE:
        p.state = PMTU_ERROR
        p.at = now + a.ep.cfg.dead_after


cdef void pmtu_on_result(Assoc *a, const AckResult *r, uint64_t now) noexcept nogil:
    cdef Pmtu *p = &a.pmtu
    cdef uint32_t size = r.probe_acked if r.probe_acked > 0 else r.probe_lost
    if size > 0:
        p.on_its_way = False
        assoc_ready(a)
        if size == p.probe:                     # not one of a search that is over
            if r.probe_acked > 0:
                passed(a, now)
            else:
                failed(a, now)
    if hole_found(&a.rec.hole):
        p.holes += 1
        pmtu_restart(a)


cdef bint pmtu_due(const Assoc *a) noexcept nogil:
    """Where the window holds nothing back, it does not grow, and a probe may be larger than it for ever."""
    return (pmtu_waits(a) and (a.rel.ops.once or a.rec.in_flight + a.pmtu.probe <= a.cc.w.cwnd)
            and reliability_may_send(&a.rel, a.rec.outstanding))


cdef void pmtu_on_timer(Assoc *a, uint64_t now) noexcept nogil:
    cdef Pmtu *p = &a.pmtu
    p.at = 0
    if p.state == PMTU_ERROR:
        assoc_fail(a, VTL_DOWN_UNREACHABLE)
    else:
        p.refused = 0
        search(a, now)
