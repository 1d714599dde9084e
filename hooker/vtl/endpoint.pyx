"""The functions of ``endpoint.pxd``: what the engine calls.

Callbacks run inside these calls and may call back in. Nothing they hold is freed meanwhile: streams
and associations that are done are freed by reap(), which only vtl_build() calls. By then the datagrams
it built before are sent, so nothing points to the bytes that are given back.
"""

from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from hooker.includes.timers cimport timer_clear, timers_free, timers_next
from hooker.vtl.aead cimport (
    AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, aead_key_size, aes_is_fast, wipe,
)
from hooker.vtl.answers cimport answer_unknown, answers_build, say_close
from hooker.vtl.budget cimport FAIR_SOURCES, LEAST_BUDGET, sources_free, stranger_known
from hooker.vtl.builder cimport batch_room
from hooker.vtl.channel cimport *
from hooker.vtl.controllers.interface cimport congestion_find, congestion_ops
from hooker.vtl.core cimport *
from hooker.vtl.ecn cimport ECN_CAPABLE
from hooker.vtl.handshake cimport *
from hooker.vtl.keys cimport psk_init
from hooker.vtl.lifecycle cimport reap
from hooker.vtl.liveness cimport assoc_ask, assoc_doubt
from hooker.vtl.packet_in cimport packet_from_elsewhere, packet_receive
from hooker.vtl.path cimport largest_received
from hooker.vtl.proof cimport PROOF_OPEN, proof_key, proof_locator, proof_of
from hooker.vtl.registry cimport *
from hooker.vtl.reliability.interface cimport reliability_find, reliability_ops
from hooker.vtl.sendbuf cimport sendbuf_write
from hooker.includes.siphash cimport siphash24
from hooker.vtl.stream cimport *
from hooker.vtl.timers cimport assoc_deadline, assoc_on_timer
from hooker.vtl.turn cimport turn_build
from hooker.vtl.wire cimport *

from hooker.vtl import congestion as _congestion  # noqa: F401  the controllers register themselves
from hooker.vtl import reliability as _reliability  # noqa: F401  so do the functions

cdef enum:
    MIN_SEND_TARGET = 128 << 10    # bytes
    HEADERS_UDP = 28               # bytes: IPv4 and UDP
    MAX_LATE = 1000000000          # ns after its deadline; a busy engine is never that late


cdef inline Endpoint *E(const vtl_endpoint *ep) noexcept nogil:
    return <Endpoint *>ep

cdef inline Assoc *A(const vtl_assoc *a) noexcept nogil:
    return <Assoc *>a

cdef inline Stream *S(const vtl_stream *s) noexcept nogil:
    return <Stream *>s

cdef inline Channel *C(const vtl_channel *c) noexcept nogil:
    return <Channel *>c


# --- endpoint

cdef vtl_endpoint *vtl_endpoint_new(const vtl_config *cfg, const vtl_sink *sink) noexcept nogil:
    """NULL: no memory, an unknown congestion controller or reliability function, versions that do not go with the
    keys, or a datagram size out of range."""
    cdef Endpoint *ep
    cdef const congestion_ops *congestion = congestion_find(cfg.congestion)
    cdef const reliability_ops *reliability = reliability_find(cfg.reliability)
    cdef uint32_t i
    if reliability != NULL and reliability.gives_up != NULL and sink.hole == NULL:
        return NULL
    if congestion == NULL or reliability == NULL or not 256 <= cfg.max_datagram <= 0xffff:
        return NULL
    if not 1 <= cfg.n_versions <= VTL_MAX_VERSIONS or cfg.keys > VTL_MAX_KEYS:
        return NULL
    for i in range(cfg.n_versions):
        if is_encrypted(cfg.versions[i]) != (cfg.keys > 0):
            return NULL
        if cfg.keys > 0 and aead_key_size(cfg.versions[i] & 0xff) == 0:
            return NULL
    ep = <Endpoint *>calloc(1, sizeof(Endpoint))
    if ep == NULL:
        return NULL
    ep.zeros = <uint8_t *>calloc(1, cfg.max_datagram)
    if ep.zeros == NULL:
        free(ep)
        return NULL
    ep.channels.size = (sizeof(Channel) + 7) & ~<size_t>7
    ep.cfg = cfg[0]
    if ep.cfg.overhead == 0:
        ep.cfg.overhead = HEADERS_UDP
    ep.sink = sink[0]
    ep.congestion = congestion
    ep.reliability = reliability
    ep.plain = reliability_find(b"")
    ep.limits.window = cfg.window
    ep.limits.repeats = cfg.repeats
    ep.limits.deadline = cfg.deadline
    for i in range(cfg.keys):
        psk_init(&ep.psk[i], cfg.key[i])
    wipe(ep.cfg.key, sizeof(ep.cfg.key))
    ep.budget = max(cfg.budget, <uint64_t>LEAST_BUDGET) if cfg.budget > 0 else UINT64_MAX // 2
    ep.sink.random(ep.sink.ctx, <uint8_t *>ep.secret, sizeof(ep.secret))
    ep.scatter = siphash24(ep.secret, <const uint8_t *>b"scatter", 7) | 1
    return <vtl_endpoint *>ep


cdef uint32_t vtl_encrypted_versions(uint32_t *out) noexcept nogil:
    cdef bint aes = aes_is_fast()
    out[0] = VERSION_ENCRYPTED | (AES_128_GCM if aes else CHACHA20_POLY1305)
    out[1] = VERSION_ENCRYPTED | (CHACHA20_POLY1305 if aes else AES_128_GCM)
    out[2] = VERSION_ENCRYPTED | AES_256_GCM
    return 3


cdef void vtl_endpoint_free(vtl_endpoint *ep) noexcept nogil:
    """Gives borrowed bytes back by release(); no other callback."""
    while E(ep).all != NULL:
        assoc_free(E(ep).all)
    channels_free_down(E(ep))
    free(E(ep).cid_table)
    free(E(ep).addr_table)
    sources_free(E(ep))
    free(E(ep).cookies_used[0])
    free(E(ep).cookies_used[1])
    timers_free(&E(ep).timers)
    free(E(ep).zeros)
    wipe(E(ep).psk, sizeof(E(ep).psk))
    free(ep)


cdef uint64_t late(Endpoint *ep, uint64_t now) noexcept nogil:
    """The time since the last call, if a deadline was missed by much: the host slept, or its clock jumped."""
    cdef uint64_t due
    settle(ep)
    if ep.timers.n == 0:
        return 0
    due = max(timers_next(&ep.timers), ep.now)
    return now - ep.now if now > due + MAX_LATE else 0


cdef inline uint64_t clock(Endpoint *ep, uint64_t now) noexcept nogil:
    """The time to work with: it never goes back, and stands still while we do not run."""
    cdef uint64_t missed
    now = max(ep.now, now - ep.skipped if now > ep.skipped else 0)
    if now > ep.now + MAX_LATE:
        missed = late(ep, now)
        ep.skipped += missed
        now -= missed
    ep.now = now
    return now


# --- datagrams in

cdef int on_data_packet(Endpoint *ep, Cursor *c, const Header *h, const vtl_addr *src,
                        uint64_t now) noexcept nogil:
    cdef Assoc *a = ep.last
    if a == NULL or a.cid != h.dcid:
        a = assoc_by_cid(ep, h.dcid)
        if a == NULL:
            answer_unknown(ep, src, h, now)
            return VTL_DROP_NO_ASSOC
        ep.last = a
    if a.state != A_UP:
        return VTL_DROP_NO_ASSOC
    if not same_addr(&a.peer, src):
        return packet_from_elsewhere(a, c, h, src, now)
    return packet_receive(a, c, h, expand(<uint32_t>h.number, largest_received(a)), now)


cdef int dispatch(Endpoint *ep, const uint8_t *pkt, size_t n, const vtl_addr *src,
                  uint64_t now) noexcept nogil:
    cdef Cursor c
    cdef Header h
    c.p = pkt
    c.n = n
    if not read_header(&c, &h):
        return VTL_DROP_SHORT
    if h.version != WIRE_VERSION:
        return VTL_DROP_VERSION
    if h.type == PKT_DATA:
        return on_data_packet(ep, &c, &h, src, now)
    if h.type == PKT_INIT:
        return on_init(ep, &c, &h, n, src, now)
    if h.type == PKT_COOKIE:
        return on_cookie(ep, &c, &h, src, now)
    if h.type == PKT_INIT_ACK:
        return on_init_ack(ep, &c, &h, n, src, now)
    if h.type == PKT_STATELESS_RESET:
        return on_stateless_reset(ep, &h, src, now)
    if h.type == PKT_CLOSE:
        return on_close(ep, &c, &h, now)
    return VTL_DROP_TYPE


cdef int vtl_recv(vtl_endpoint *ep, uint8_t *pkt, size_t n, const vtl_addr *src, uint8_t ecn,
                  uint64_t now) noexcept nogil:
    cdef int rc
    now = clock(E(ep), now)
    E(ep).source = src
    E(ep).source_size = <uint32_t>n
    E(ep).source_ecn = ecn & 3
    rc = dispatch(E(ep), pkt, n, src, now)
    if rc != VTL_OK:
        E(ep).drops[rc] += 1
    return rc


cdef const uint64_t *vtl_secret(const vtl_endpoint *ep) noexcept nogil:
    return (<const Endpoint *>ep).secret


cdef uint64_t vtl_behind(const vtl_endpoint *ep) noexcept nogil:
    return (<const Endpoint *>ep).skipped


cdef uint64_t vtl_drops(vtl_endpoint *ep, int reason) noexcept nogil:
    return E(ep).drops[reason] if 0 <= reason < VTL_DROP_REASONS else 0


cdef uint64_t vtl_held_less(const vtl_endpoint *ep) noexcept nogil:
    return E(ep).held_peak - E(ep).held


cdef void vtl_held_noted(vtl_endpoint *ep) noexcept nogil:
    E(ep).held_peak = E(ep).held


cdef void vtl_take(vtl_assoc *a, vtl_take_kind what, int64_t n) noexcept nogil:
    A(a).taken[<int>what] += <uint64_t>n
    A(a).source.taken[<int>what] += <uint64_t>n


cdef uint64_t vtl_taken(const vtl_assoc *a, vtl_take_kind what) noexcept nogil:
    return (<const Assoc *>a).source.taken[<int>what]


cdef uint32_t vtl_sources(const vtl_assoc *a) noexcept nogil:
    return max((<const Assoc *>a).ep.sources[0], <uint32_t>FAIR_SOURCES)


cdef void vtl_get_counters(const vtl_endpoint *ep, vtl_counters *out) noexcept nogil:
    out[0] = E(ep).count
    out.held = E(ep).held
    out.strangers = E(ep).strangers


# --- datagrams out

cdef Assoc *pop_ready(Endpoint *ep) noexcept nogil:
    cdef Assoc *a = ep.ready_first
    unready(a)
    return a


cdef int vtl_build(vtl_endpoint *ep, vtl_batch *b, uint64_t now) noexcept nogil:
    cdef uint32_t before = b.dgram_len
    cdef Assoc *a
    now = clock(E(ep), now)
    reap(E(ep))
    answers_build(E(ep), b, now)
    while E(ep).ready_first != NULL and batch_room(b):
        a = pop_ready(E(ep))
        if a.state != A_DEAD and not turn_build(a, b, now):
            assoc_ready(a)                      # the batch is full: others first next time
            break
    return b.dgram_len - before


cdef bint vtl_has_more(const vtl_endpoint *ep) noexcept nogil:
    return (<const Endpoint *>ep).ready_first != NULL


# --- time

cdef void settle(Endpoint *ep) noexcept nogil:
    """Brings the heap up to date."""
    cdef Assoc *a = ep.dirty
    cdef Assoc *next
    ep.dirty = NULL
    while a != NULL:
        next = a.next_dirty
        a.in_dirty = False
        assoc_due(a, assoc_deadline(a))
        a = next


cdef uint64_t vtl_timer(vtl_endpoint *ep) noexcept nogil:
    settle(E(ep))
    return timers_next(&E(ep).timers) + E(ep).skipped if E(ep).timers.n > 0 else UINT64_MAX


cdef void vtl_on_timer(vtl_endpoint *ep, uint64_t now) noexcept nogil:
    cdef Assoc *a
    now = clock(E(ep), now)
    settle(E(ep))
    while timers_next(&E(ep).timers) <= now:
        a = <Assoc *>E(ep).timers.v[0]
        timer_clear(&E(ep).timers, &a.due)
        assoc_on_timer(a, now)
        assoc_touch(a)


cdef Assoc *quoted_assoc(Endpoint *ep, const vtl_addr *to, const uint8_t *quoted, size_t n) noexcept nogil:
    """Whose datagram an ICMP error quotes; NULL unless it shows what only the path has seen: a connection id."""
    cdef Cursor c
    cdef Header h
    cdef Assoc *a = NULL
    c.p = quoted
    c.n = n
    if not read_header(&c, &h) or h.version != WIRE_VERSION:
        return NULL
    if h.type == PKT_INIT:
        a = assoc_by_cid(ep, h.number)
    elif h.type == PKT_DATA:
        a = assoc_with_peer_cid(ep, to, h.dcid, True)
        if a == NULL:
            a = assoc_with_peer_cid(ep, to, h.dcid, False)
        if a != NULL and expand(<uint32_t>h.number, a.rec.next_pn) - 1 >= a.rec.next_pn - 1:
            a = NULL                            # a number that we have not used
    return a if a != NULL and same_addr(&a.peer, to) else NULL


cdef void vtl_path_error(vtl_endpoint *ep, const vtl_addr *to, const uint8_t *quoted, size_t n,
                         uint64_t now) noexcept nogil:
    """Anybody can send one that quotes addresses and ports: without a connection id it is a reason to ask, no more."""
    cdef Assoc *a = quoted_assoc(E(ep), to, quoted, n)
    now = clock(E(ep), now)
    if a == NULL:
        E(ep).count.unproven_errors += 1
        a = assoc_to(E(ep), to, NULL)
        if a != NULL and a.state == A_UP:
            assoc_ask(a, now)
    elif a.state == A_UP:
        assoc_doubt(a, VTL_DOWN_UNREACHABLE, now)
    else:
        assoc_fail(a, VTL_DOWN_UNREACHABLE)


# --- associations

cdef vtl_assoc *connect(Endpoint *ep, const vtl_addr *to, const reliability_ops *function, uint64_t now) noexcept nogil:
    cdef Assoc *a = assoc_to(ep, to, function)
    now = clock(ep, now)
    if a == NULL:
        a = assoc_new(ep, to, random_cid(ep), now)
        if a != NULL:
            a.wanted = function
            handshake_start(a, now)
    return <vtl_assoc *>a


cdef vtl_assoc *vtl_connect(vtl_endpoint *ep, const vtl_addr *to, uint64_t now) noexcept nogil:
    return connect(E(ep), to, E(ep).reliability, now)


cdef vtl_assoc *vtl_connect_as(vtl_endpoint *ep, const vtl_addr *to, const char *reliability, uint64_t now) noexcept nogil:
    cdef const reliability_ops *function = reliability_find(reliability)
    if function == NULL or (function.gives_up != NULL and E(ep).sink.hole == NULL):
        return NULL
    return connect(E(ep), to, function, now)


cdef bint vtl_repairs(const vtl_assoc *a) noexcept nogil:
    return A(a).rel.ops.repairs


cdef bint vtl_is_whole(const vtl_assoc *a) noexcept nogil:
    return A(a).rel.ops.gives_up == NULL


cdef const char *vtl_reliability(const vtl_assoc *a) noexcept nogil:
    return A(a).rel.ops.name


cdef bint vtl_is_up(const vtl_assoc *a) noexcept nogil:
    return A(a).state == A_UP


cdef uint64_t vtl_patience(const vtl_assoc *a) noexcept nogil:
    cdef const Recovery *r = &(<const Assoc *>a).rec
    return 2 * r.srtt + 4 * r.rttvar if r.min_rtt else 0


cdef const vtl_addr *vtl_peer(const vtl_assoc *a) noexcept nogil:
    return &A(a).peer


cdef void vtl_close(vtl_assoc *a, uint32_t reason, uint64_t now) noexcept nogil:
    cdef Endpoint *ep = A(a).ep
    if A(a).state == A_DEAD:
        return
    now = clock(ep, now)
    if A(a).state == A_UP:
        say_close(A(a), reason)
    assoc_fail(A(a), reason)


cdef void vtl_assoc_get_stats(const vtl_assoc *assoc, vtl_assoc_stats *out) noexcept nogil:
    cdef Assoc *a = A(assoc)
    out.packets_sent = a.rec.sent
    out.packets_received = a.packets_received
    out.packets_lost = a.rec.lost
    out.packets_spurious = a.rec.spurious
    out.bytes_sent = a.bytes_sent
    out.bytes_received = a.bytes_received
    out.stream_bytes_sent = a.stream_sent
    out.stream_bytes_retransmitted = a.stream_again
    out.stream_bytes_received = a.stream_received
    out.srtt_ns = a.rec.srtt
    out.min_rtt_ns = a.rec.min_rtt
    out.rttvar_ns = a.rec.rttvar
    out.cwnd = a.cc.w.cwnd
    out.bytes_in_flight = a.rec.in_flight
    out.pto_count = a.rec.pto_count
    out.streams = a.streams
    out.channels = a.n_channels
    out.reliability = a.rel.ops.code
    out.bytes_given_up = a.given_up
    out.bytes_missing = a.missing
    out.up = a.state == A_UP
    out.ecn = a.ecn.state == ECN_CAPABLE
    out.reordering = a.rec.threshold
    out.receive_window = a.credit.window
    out.packets_marked = a.ecn.marked
    out.moves = a.moves
    out.version = a.version
    out.key_updates = a.keys.updates if a.keys != NULL else 0
    out.forged = a.keys.forged if a.keys != NULL else 0
    out.repairs_sent = a.fec.sent
    out.packets_repaired = a.fec.repaired
    out.datagram = a.max_datagram
    out.mtu_probes = a.pmtu.sent
    out.mtu_holes = a.pmtu.holes


cdef void vtl_set_user(vtl_assoc *a, void *user) noexcept nogil:
    A(a).user = user


cdef void *vtl_user(const vtl_assoc *a) noexcept nogil:
    return A(a).user


# --- streams

cdef vtl_stream *vtl_open(vtl_assoc *assoc, const vtl_open_info *info, void *user,
                          uint64_t now) noexcept nogil:
    """NULL: no memory, too many streams, or the association is down."""
    cdef Assoc *a = A(assoc)
    cdef Stream *s
    if a.state == A_DEAD or a.next_id >> 31:
        return NULL
    clock(a.ep, now)
    s = stream_new(a, (a.next_id << 1) | (0 if a.initiator else 1))
    if s == NULL:
        return NULL
    a.next_id += 1
    stranger_known(a)
    s.user = user
    s.flags = S_LOCAL | S_ANNOUNCED | (S_COMMITTED if info.committed else 0)
    s.locator = info.locator
    proof_key(s.key, info.key)
    stream_control(s, P_OPEN)
    return <vtl_stream *>s


cdef uint64_t vtl_locator(const uint8_t *key) noexcept nogil:
    cdef uint64_t k[2]
    proof_key(k, key)
    return proof_locator(k)


cdef bint vtl_prove(vtl_stream *stream, const vtl_open_info *info, const uint8_t *key) noexcept nogil:
    cdef Stream *s = S(stream)
    cdef uint8_t flags = OPEN_COMMITTED if info.committed else 0
    proof_key(s.key, key)
    return info.proof == proof_of(s.assoc, s.key, PROOF_OPEN, flags, s.id)


cdef void vtl_accept(vtl_stream *s, void *user) noexcept nogil:
    S(s).user = user
    stream_accept(S(s))


cdef void vtl_reject(vtl_stream *s, uint32_t code) noexcept nogil:
    if not S(s).flags & (S_LOCAL | S_ACCEPTED):
        stream_end(S(s), P_REJECT, code)


cdef void vtl_confirm(vtl_stream *s) noexcept nogil:
    if S(s).flags & (S_LOCAL | S_ACCEPTED | S_CONFIRMED | S_COMMITTED | S_DEAD) == (S_LOCAL | S_ACCEPTED):
        S(s).flags |= S_CONFIRMED
        S(s).owed |= P_CONFIRM
        stream_control(S(s), P_CONFIRM)


cdef void vtl_cancel(vtl_stream *s) noexcept nogil:
    if S(s).flags & S_LOCAL:
        stream_end(S(s), P_CANCEL, 0)


cdef void vtl_reset(vtl_stream *s, uint32_t code) noexcept nogil:
    stream_end(S(s), P_RESET, code)


cdef void vtl_stream_set_user(vtl_stream *s, void *user) noexcept nogil:
    S(s).user = user


cdef void *vtl_stream_user(const vtl_stream *s) noexcept nogil:
    return S(s).user


cdef vtl_assoc *vtl_stream_assoc(const vtl_stream *s) noexcept nogil:
    return <vtl_assoc *>S(s).assoc


cdef uint32_t vtl_stream_id(const vtl_stream *s) noexcept nogil:
    return S(s).id


cdef int vtl_write(vtl_stream *stream, const uint8_t *data, size_t n, void *owner) noexcept nogil:
    """Bytes written after the end of our direction are given back at once."""
    cdef Stream *s = S(stream)
    cdef vtl_sink *k = &s.assoc.ep.sink
    if n == 0:
        return 0
    if s.flags & (S_ENDED | S_FIN_QUEUED):
        k.release(k.ctx, owner, n)
        return 0
    if sendbuf_write(&s.out, data, n, owner) < 0:
        return -1
    stream_activate(s)
    return 0


cdef void vtl_fin(vtl_stream *s) noexcept nogil:
    S(s).flags |= S_FIN_QUEUED
    stream_activate(S(s))


cdef void vtl_consumed(vtl_stream *s, size_t n) noexcept nogil:
    stream_consumed(S(s), n)


cdef size_t vtl_unacked(const vtl_stream *s) noexcept nogil:
    return S(s).out.end - S(s).out.acked


cdef size_t vtl_send_target(const vtl_stream *s) noexcept nogil:
    """A window on its way and one that waits. What is acknowledged behind a hole is still held, and is neither."""
    cdef uint64_t cwnd = S(s).assoc.cc.w.cwnd
    return max(cwnd + max(cwnd, S(s).out.next - S(s).out.acked), MIN_SEND_TARGET)


# --- channels

cdef inline bint takes(const Channel *c) noexcept nogil:
    return c.assoc != NULL and c.assoc.state != A_DEAD


cdef vtl_channel *vtl_channel_open(vtl_assoc *a, void *user) noexcept nogil:
    return <vtl_channel *>channel_new(A(a), user) if A(a).state != A_DEAD else NULL


cdef void vtl_channel_close(vtl_channel *c) noexcept nogil:
    channel_destroy(C(c))


cdef int vtl_channel_send(vtl_channel *c, const vtl_block *b, void *owner) noexcept nogil:
    return channel_send(C(c), b, owner) if takes(C(c)) else -1


cdef int vtl_channel_say(vtl_channel *c, const uint8_t *p, uint32_t n) noexcept nogil:
    return channel_say(C(c), p, n) if takes(C(c)) else -1


cdef void vtl_channel_report(vtl_channel *c) noexcept nogil:
    if takes(C(c)):
        C(c).report_due = True
        channel_talk(C(c))


cdef size_t vtl_channel_waiting(const vtl_channel *c) noexcept nogil:
    return C(c).waiting


cdef uint64_t vtl_channels_waiting(const vtl_channel *c) noexcept nogil:
    return C(c).assoc.waiting if C(c).assoc != NULL else 0


cdef uint64_t vtl_channels_enough(const vtl_channel *c) noexcept nogil:
    """Half a window: it is acknowledged in some four steps a round trip, by then the next ones have come."""
    cdef const Assoc *a = C(c).assoc
    return a.cc.w.cwnd // 2 if a != NULL and a.rec.has_rtt else 0


cdef size_t vtl_channel_unacked(const vtl_channel *c) noexcept nogil:
    return C(c).unacked


cdef bint vtl_channel_at_rest(const vtl_channel *c) noexcept nogil:
    return channel_at_rest(C(c))


cdef bint vtl_channel_newest(const vtl_channel *c, vtl_block *out) noexcept nogil:
    cdef const Item *it = channel_newest(C(c))
    if it == NULL:
        return False
    out.id, out.position, out.epoch, out.flags, out.n, out.data = it.id, it.position, it.epoch, it.flags, it.n, it.data
    return True


cdef void vtl_hold(vtl_assoc *a) noexcept nogil:
    assoc_hold(A(a))


cdef void vtl_let_go(vtl_assoc *a) noexcept nogil:
    assoc_let_go(A(a))


cdef vtl_assoc *vtl_channel_assoc(const vtl_channel *c) noexcept nogil:
    return <vtl_assoc *>C(c).assoc


cdef int vtl_say(vtl_assoc *a, const uint8_t *p, uint32_t n) noexcept nogil:
    return assoc_say(A(a), p, n) if A(a).state != A_DEAD else -1
