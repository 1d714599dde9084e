"""How an association begins and ends.

    initiator                                      responder
    INIT (cid)                         ->          nothing kept
                                       <-          COOKIE (server cid, time, MAC)
    INIT (cid, cookie), DATA (OPEN …)  ->          association made: up
    up                                 <-          INIT_ACK, DATA

1. The responder keeps nothing before the cookie is back. The cookie names the server connection id,
   so frames may follow the second INIT at once.
2. The second INIT and the INIT_ACK are padded to the full datagram size, so an answer proves it. If there is
   none, the next ones have the base size, and pmtu.pyx finds what the path carries.
3. COOKIE and INIT_ACK list the responder's versions: taking some away does not go unnoticed (RFC 9368).
4. Two hosts that connect at the same time get two associations; new streams take the same one at both.
5. An association ends by CLOSE or, when that was lost, by the STATELESS_RESET that answers its next DATA.
"""

from libc.string cimport memset
from hooker.vtl.answers cimport answer_unproven
from hooker.vtl.api cimport *
from hooker.vtl.blackhole cimport BASE_DATAGRAM
from hooker.vtl.budget cimport source_hash, stranger_add, stranger_known, stranger_to_evict
from hooker.vtl.cookie cimport cookie_fresh, cookie_use
from hooker.vtl.core cimport *
from hooker.vtl.keys cimport keys_free, keys_install, keys_open, psk_verify
from hooker.vtl.liveness cimport assoc_doubt
from hooker.vtl.outcome cimport packets_abandon, requeue_for_probe
from hooker.vtl.pmtu cimport pmtu_begin, pmtu_first
from hooker.vtl.ranges cimport ranges_contains
from hooker.vtl.recovery cimport recovery_rtt
from hooker.vtl.reliability.interface cimport ACCEPTABLE, reliability_of, reliability_ops, reliability_use
from hooker.vtl.registry cimport (
    assoc_by_cid, assoc_free, assoc_new, assoc_readdress, assoc_settle_rivals, assoc_to_evict,
    assoc_with_peer_cid, random_cid,
)
from hooker.vtl.stream cimport stream_activate
from hooker.vtl.wire cimport *

cdef enum:
    RETRY = 60000000           # ns before the first INIT is repeated; doubles
    RETRY_MAX = 1000000000     # ns
    COOKIE_TRIES = 3           # INITs with one cookie before asking for another
    FULL_SIZE_TRIES = 1        # INITs of full size with one cookie before the base
    REFUSALS = 2               # wrong answers that end a handshake; one may be an accident
    BEGIN_RATE = 500           # associations per second that one source may begin
    BEGIN_BURST = 1000
    HALF_MADE = 64             # newest associations that an INIT from another address is compared with


# --- initiator

cdef uint64_t retry_after(const Assoc *a) noexcept nogil:
    cdef uint64_t first = RETRY
    if a.rec.has_rtt:
        first = max(first, 2 * a.rec.srtt)
    return min(first << min(a.hs_tries, 8), RETRY_MAX)


cdef void send_init(Assoc *a, uint64_t now) noexcept nogil:
    a.hs_send = True
    a.hs_sent_at = now
    a.hs_next = now + retry_after(a)
    a.hs_tries += 1
    a.hs_total += 1
    if a.state == A_INIT or a.hs_tries > FULL_SIZE_TRIES:       # COOKIE proves no size
        a.hs_size = min(pmtu_first(a), <uint32_t>BASE_DATAGRAM)
    else:
        a.hs_size = pmtu_first(a)
    if a.rec.outstanding > 0:                   # what followed the INIT before was lost with it, or in vain
        requeue_for_probe(a)
        a.probes = max(a.probes, 1)
    assoc_ready(a)


cdef void handshake_start(Assoc *a, uint64_t now) noexcept nogil:
    a.initiator = True
    a.state = A_INIT
    a.hs_started = a.last_recv = now
    send_init(a, now)


cdef void handshake_timer(Assoc *a, uint64_t now) noexcept nogil:
    if now - a.hs_started >= a.ep.cfg.handshake_timeout:
        assoc_fail(a, VTL_DOWN_HANDSHAKE_TIMEOUT)
    elif now >= a.hs_next:
        if a.state == A_COOKIE and a.hs_tries >= COOKIE_TRIES:
            begin_again(a)                      # the responder may have changed its secret
        send_init(a, now)


cdef void begin_again(Assoc *a) noexcept nogil:
    a.state = A_INIT
    a.cookie_cid = a.cookie_time = a.cookie_mac = 0
    a.version = 0
    keys_free(a)


cdef int refuse(Assoc *a, uint32_t reason, int drop, uint64_t now) noexcept nogil:
    """An answer that cannot be right: somebody may have changed it, or what we had sent."""
    a.hs_refused += 1
    if a.hs_refused >= REFUSALS:
        assoc_fail(a, reason)
    else:
        begin_again(a)
        a.hs_tries = 0
        send_init(a, now)
    return drop


cdef Assoc *ours(Endpoint *ep, const Header *h, const vtl_addr *src) noexcept nogil:
    cdef Assoc *a = assoc_by_cid(ep, h.dcid)
    if a == NULL or a.state == A_DEAD or not same_addr(&a.peer, src):
        return NULL
    return a


cdef int on_cookie(Endpoint *ep, Cursor *c, const Header *h, const vtl_addr *src,
                   uint64_t now) noexcept nogil:
    cdef Assoc *a = ours(ep, h, src)
    cdef const uint8_t *packet = c.p - HEADER_SIZE
    cdef const uint8_t *p = take(c, COOKIE_FIXED)
    cdef Versions spoken
    if p == NULL:
        return VTL_DROP_SHORT
    if not take_versions(c, p[0], &spoken):
        return VTL_DROP_SHORT
    if a == NULL or not a.initiator:
        return VTL_DROP_NO_ASSOC
    if a.state != A_INIT:
        return VTL_DROP_DUPLICATE
    if ep.cfg.keys > 0 and psk_verify(ep, c, packet) != <int>a.psk:
        ep.count.key_mismatches += 1
        return refuse(a, VTL_DOWN_KEY, VTL_DROP_AUTH, now)
    a.version = choose_version(ep.cfg.versions, ep.cfg.n_versions, &spoken)
    if a.version == 0:
        if any_encrypted(&spoken) != (ep.cfg.keys > 0):
            ep.count.key_mismatches += 1
            assoc_fail(a, VTL_DOWN_KEY)
        else:
            assoc_fail(a, VTL_DOWN_VERSION)
        return VTL_OK
    if a.hs_total == 1:
        recovery_rtt(&a.rec, max(now - a.hs_sent_at, 1), 0)
    a.cookie_cid = a.peer_cid = h.number
    if ep.cfg.keys > 0 and not keys_install(a):
        begin_again(a)
        return VTL_DROP_MEMORY
    a.cookie_time = load64(p + 4)
    a.cookie_mac = load64(p + 12)
    a.state = A_COOKIE
    a.last_recv = now
    a.hs_tries = 0
    send_init(a, now)
    return VTL_OK


cdef void come_up(Assoc *a, const reliability_ops *function, const uint8_t *windows, uint32_t ack_delay_us,
                  uint64_t now) noexcept nogil:
    cdef vtl_sink *k = &a.ep.sink
    cdef Stream *s = a.all
    a.state = A_UP
    reliability_use(&a.rel, function, &a.ep.limits)
    a.last_recv = now
    if not assoc_in_use(a):
        a.idle_since = now
    assoc_settle_rivals(a, now)
    a.first_up_pn = a.rec.next_pn
    a.up_at = now
    a.send_max = load64(windows)
    a.peer_stream_window = load64(windows + 8)
    a.rec.peer_ack_delay = min(<uint64_t>ack_delay_us * 1000, <uint64_t>1 << 34)    # RFC 9000 18.2
    while s != NULL:
        s.send_max = a.peer_stream_window
        stream_activate(s)
        s = s.next
    assoc_ready(a)
    if not a.announced:
        a.announced = True
        k.assoc_up(k.ctx, <vtl_assoc *>a)


cdef int on_init_ack(Endpoint *ep, Cursor *c, const Header *h, size_t n, const vtl_addr *src,
                     uint64_t now) noexcept nogil:
    cdef Assoc *a = ours(ep, h, src)
    cdef const uint8_t *packet = c.p - HEADER_SIZE
    cdef const uint8_t *p = take(c, INIT_ACK_FIXED)
    cdef Versions spoken
    cdef uint32_t due
    cdef uint8_t function
    if p == NULL:
        return VTL_DROP_SHORT
    if not take_versions(c, p[24], &spoken):
        return VTL_DROP_SHORT
    if a == NULL or not a.initiator:
        return VTL_DROP_NO_ASSOC
    if a.state == A_UP:
        return VTL_DROP_DUPLICATE
    if ep.cfg.keys > 0 and psk_verify(ep, c, packet) != <int>a.psk:
        return VTL_DROP_AUTH
    function = p[INIT_ACK_FUNCTION]
    if function not in (0, a.wanted.code):          # nobody asked for that
        return refuse(a, VTL_DOWN_VERSION, VTL_DROP_PROTOCOL, now)
    due = choose_version(ep.cfg.versions, ep.cfg.n_versions, &spoken)
    if due == 0 or load32(p) != due or (a.version != 0 and a.version != due):
        return refuse(a, VTL_DOWN_VERSION, VTL_DROP_VERSION, now)
    if a.version == 0 or a.peer_cid != h.number:
        a.version = due
        a.peer_cid = h.number
        if ep.cfg.keys > 0 and not keys_install(a):
            return VTL_DROP_MEMORY
    if a.state == A_COOKIE and a.hs_tries == 1:
        recovery_rtt(&a.rec, max(now - a.hs_sent_at, 1), 0)
    if a.hs_tries > 1:
        packets_abandon(a)                      # lost because nobody was there, not by congestion
    a.hs_send = False
    pmtu_begin(a, min(pmtu_first(a), <uint32_t>min(n, 0xffff)), now)
    # tells the responder that INIT_ACK has come, and gives it an RTT
    a.ping_due = True
    come_up(a, a.wanted if function != 0 else ep.plain, p + INIT_ACK_WINDOWS, load32(p + 4), now)
    return VTL_OK


# --- responder

cdef bint may_begin(Endpoint *ep, const vtl_addr *src, uint64_t now) noexcept nogil:
    """Associations by the second, for each source that has proven its address."""
    cdef RateLimit *r = &ep.begin[source_hash(ep, src) & (BEGIN_SLOTS - 1)]
    if r.at == 0:
        r.tokens = BEGIN_BURST
    r.tokens = min(r.tokens + <double>(now - r.at) * BEGIN_RATE / 1e9, <double>BEGIN_BURST)
    r.at = now
    if r.tokens < 1:
        return False
    r.tokens -= 1
    return True


cdef void init_again(Assoc *a, size_t n) noexcept nogil:
    """INIT_ACK was lost, and what followed it was not understood."""
    a.hs_send = True
    a.hs_size = min(a.max_datagram, <uint32_t>n)
    if a.rec.largest_acked == 0:                # the larger one may not have passed; a cut one proves nothing
        pmtu_begin(a, min(a.max_datagram, <uint32_t>max(n, <size_t>BASE_DATAGRAM)), a.ep.now)
    if a.rec.outstanding > 0:
        requeue_for_probe(a)
        a.probes = max(a.probes, 1)
    assoc_ready(a)


cdef Assoc *half_made(Endpoint *ep, uint64_t scid, uint64_t now) noexcept nogil:
    """The initiator's association, from another address, of which it knows nothing yet: its address
    changed between its INIT and our INIT_ACK. A second one would get its flows once more."""
    cdef Assoc *a = ep.all                      # the newest first
    cdef uint32_t n = 0
    while a != NULL and n < HALF_MADE and now - a.hs_started <= ep.cfg.handshake_timeout:
        if a.peer_cid == scid and a.state == A_UP and not a.initiator and a.rec.largest_acked == 0:
            return a
        a = a.next
        n += 1
    return NULL


cdef void make_room(Endpoint *ep, const vtl_addr *src) noexcept nogil:
    """Of the associations of that peer, source, or of strangers at all, the oldest goes if they are too many."""
    cdef Assoc *a = assoc_to_evict(ep, src)
    if a == NULL:
        a = stranger_to_evict(ep, src)
    if a != NULL:
        stranger_known(a)                       # counted no more
        assoc_fail(a, VTL_DOWN_TIMEOUT)
        ep.count.evicted += 1


cdef void send_cookie(Endpoint *ep, const vtl_addr *src, uint64_t scid, int psk) noexcept nogil:
    """To a stranger's INIT too: our signature tells him that the keys differ."""
    cdef Stateless *t = answer_unproven(ep, PKT_COOKIE, src, scid, random_cid(ep))
    if psk < 0:
        ep.count.key_mismatches += 1
    elif t != NULL:
        t.psk = psk


cdef const reliability_ops *accepted_function(const Endpoint *ep, uint8_t code) noexcept nogil:
    """What the initiator asks for, if it is taken here; else what nobody can have anything against."""
    cdef const reliability_ops *f = reliability_of(code)
    if f != NULL and f.gives_up != NULL and ep.sink.hole == NULL:
        return ep.plain
    if f != NULL and (f == ep.reliability or (code < ACCEPTABLE and ep.cfg.accepts >> code & 1)):
        return f
    return ep.plain


cdef int on_init(Endpoint *ep, Cursor *c, const Header *h, size_t n, const vtl_addr *src,
                 uint64_t now) noexcept nogil:
    cdef const uint8_t *packet = c.p - HEADER_SIZE
    cdef Init i
    cdef Assoc *a
    cdef uint32_t version
    cdef int psk
    cdef uint8_t windows[16]
    if n < INIT_MIN_SIZE or not read_init(c, &i):
        return VTL_DROP_SHORT
    i.scid = h.number
    psk = psk_verify(ep, c, packet) if ep.cfg.keys > 0 else 0
    a = assoc_with_peer_cid(ep, src, i.scid, False)
    if a != NULL:
        if psk != <int>a.psk:
            return VTL_DROP_AUTH
        init_again(a, n)
        return VTL_OK
    if i.cookie_mac == 0 and i.cookie_time == 0:
        send_cookie(ep, src, i.scid, psk)
        return VTL_OK
    if psk < 0:
        return VTL_DROP_AUTH
    if not cookie_fresh(ep, &i, src, now):
        return VTL_DROP_COOKIE
    a = half_made(ep, i.scid, now)
    if a != NULL:
        if psk != <int>a.psk:
            return VTL_DROP_AUTH
        assoc_readdress(a, src)
        memset(&a.other, 0, sizeof(a.other))
        init_again(a, n)
        return VTL_OK
    version = accept_version(&i.versions, ep.cfg.versions, ep.cfg.n_versions)
    if version == 0:
        return VTL_DROP_VERSION
    if not may_begin(ep, src, now) or not cookie_use(ep, &i):
        return VTL_DROP_COOKIE
    make_room(ep, src)
    a = assoc_new(ep, src, i.cookie_cid, now)
    if a == NULL:
        return VTL_DROP_MEMORY
    stranger_add(a)
    a.peer_cid = i.scid
    a.version = version
    a.wanted = accepted_function(ep, i.reliability)
    a.psk = psk
    if ep.cfg.keys > 0 and not keys_install(a):
        assoc_free(a)
        return VTL_DROP_MEMORY
    a.hs_size = min(pmtu_first(a), <uint32_t>min(n, 0xffff))
    pmtu_begin(a, a.hs_size, now)
    a.hs_send = True
    store64(windows, i.max_data)
    store64(windows + 8, i.max_stream_data)
    come_up(a, a.wanted, windows, i.max_ack_delay_us, now)
    return VTL_OK


# --- end

cdef int on_stateless_reset(Endpoint *ep, const Header *h, const vtl_addr *src, uint64_t now) noexcept nogil:
    cdef Assoc *a = assoc_with_peer_cid(ep, src, h.dcid, True)
    cdef uint64_t pn
    if a == NULL:
        a = assoc_with_peer_cid(ep, src, h.dcid, False)
    if a == NULL:
        return VTL_DROP_NO_ASSOC
    pn = expand(<uint32_t>h.number, a.rec.next_pn)
    if a.state != A_UP or pn < a.first_up_pn or pn >= a.rec.next_pn:
        return VTL_DROP_PROTOCOL                # also: DATA that overtook its INIT
    if a.keys != NULL:
        assoc_doubt(a, VTL_DOWN_STATELESS_RESET, now)   # nobody can have signed it: only a question
    else:
        assoc_fail(a, VTL_DOWN_STATELESS_RESET)
    return VTL_OK


cdef int on_close(Endpoint *ep, Cursor *c, const Header *h, uint64_t now) noexcept nogil:
    cdef Assoc *a = assoc_by_cid(ep, h.dcid)    # from anywhere: it names both ids, or is encrypted
    cdef int rc
    if a == NULL or a.state != A_UP or (a.keys == NULL and a.peer_cid != h.number):
        return VTL_DROP_NO_ASSOC
    if a.keys != NULL:
        if h.number < a.received_floor or ranges_contains(&a.received, h.number):
            return VTL_DROP_DUPLICATE
        rc = keys_open(a, c, h, h.number, now)
        if rc != VTL_OK:
            return rc
    if c.n < CLOSE_BODY:
        return VTL_DROP_SHORT
    a.closed_by_peer = True
    assoc_fail(a, load32(c.p))
    return VTL_OK
