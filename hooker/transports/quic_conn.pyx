"""One QUIC connection, by libngtcp2: it begins, reads, writes and says goodbye.

1. Both ends open all their streams (quic_lanes.pyx) when the handshake is complete. More than these, a
   stream that ends, or a frame that is none, ends the association.
2. What has come is handed on at once, so the peer's credit is renewed at once, too. The library deciphers
   each packet into the same place, so it is copied: what stays until the batch is settled becomes few
   segments for the local TCP, and not one for each datagram. What comes out of order is kept by the
   library, within CONNECTION_WINDOW and the source's share.
3. A stream is given its next frame when it has less than CUT bytes to send: what is said later is not
   behind megabytes, and channels take turns. A channel stays on its lane, so its DATA arrives in order.
4. Connection ids say where the association is (slot) and that it is still the same (mark); 64 bits are
   random.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport Datagram
from hooker.flow.messages cimport MSG_PING, MSG_PONG, Message
from hooker.includes.addresses cimport fill_address, read_address
from hooker.includes.bytes cimport store16
from hooker.includes.links cimport Link, link_append, link_remove
from hooker.includes.linux cimport AF_INET, AF_INET6, iovec, sockaddr_storage
from hooker.includes.ngtcp2 cimport *
from hooker.transports.contract cimport *
from hooker.transports.quic_core cimport *
from hooker.transports.quic_lanes cimport *
from hooker.transports.quic_tls cimport SECRET_SIZE, tls_begin
from hooker.transports.queues cimport *
from hooker.transports.sources cimport source_give, source_hold
from hooker.vtl.api cimport vtl_addr, vtl_datagram

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef extern from *:
    int lowest_bit "__builtin_ctzll"(unsigned long long x) nogil

cdef enum:
    FIRST_CID = 18             # bytes of the connection id that a client makes up: none of ours is as long
    PACKETS = 64               # of one association in its turn
    FAREWELL_PACKETS = 16
    PARTS = 8                  # chunks in one packet
    WORDS_AHEAD = 4096         # bytes of control messages that a stream is given before they can go
    CONNECTION_WINDOW = 8 << 20     # bytes
    STREAM_WINDOW = 6 << 20
    ACK_EVERY = 10             # packets
    MAX_ACK_DELAY = 1000000    # ns
    HANDSHAKE_TIME = 3000000000
    ACTIVE_IDS = 4
    TLS_ALERTS = 0x100         # transport error codes of TLS alerts (RFC 9001, 4.8)

cdef const uint8_t NOWHERE[16]


# ---- names -------------------------------------------------------------------------------------------

cdef void fill_ends(Ends *e, const vtl_addr *remote) noexcept nogil:
    """Which of our addresses it was is not the library's business: it is always the same one to it."""
    cdef uint8_t nowhere[16]
    memset(e, 0, sizeof(Ends))
    memset(nowhere, 0, 16)
    e.path.remote.addrlen = fill_address(&e.remote, remote.ip, remote.port)
    if e.remote.ss_family == AF_INET:
        nowhere[10] = nowhere[11] = 0xff
    e.path.local.addrlen = fill_address(&e.local, nowhere, 0)
    e.path.local.addr, e.path.remote.addr = <ngtcp2_sockaddr *>&e.local, <ngtcp2_sockaddr *>&e.remote


cdef void name_cid(uint32_t slot, uint16_t mark, ngtcp2_cid *out) noexcept nogil:
    out.datalen = CID_SIZE
    store16(out.data, <uint16_t>slot)
    store16(out.data + 2, mark)
    getrandom(out.data + 4, CID_SIZE - 4, 0)


cdef void reset_token(const QuicTransport *t, const vtl_addr *where, const ngtcp2_cid *cid,
                      uint8_t *out) noexcept nogil:
    """Of one address of ours: another host with the same key does not say it of this one's (RFC 9000,
                                                                                             21.11)."""
    cdef uint8_t secret[48]
    memcpy(secret, t.reset_secret, SECRET_SIZE)
    memcpy(secret + SECRET_SIZE, where.local, 16)
    if ngtcp2_crypto_generate_stateless_reset_token(out, secret, sizeof(secret), cid) != 0:
        getrandom(out, NGTCP2_STATELESS_RESET_TOKENLEN, 0)


# ---- datagrams ---------------------------------------------------------------------------------------

cdef bint datagrams_out(QuicTransport *t) noexcept nogil:
    if t.batch.dgram_len:
        t.batch_at = t.carrier.ops.send(t.carrier, &t.batch, t.batch_at)
    if t.batch_at < t.batch.dgram_len:
        return False
    t.batch.dgram_len = t.batch.iov_len = t.batch_at = 0
    return True


cdef uint8_t *datagram_room(QuicTransport *t) noexcept nogil:
    if t.batch.dgram_len == TX_PACKETS and not datagrams_out(t):
        return NULL
    return t.tx + t.batch.dgram_len * TX_SIZE


cdef void datagram_add(QuicTransport *t, const vtl_addr *to, size_t n, uint8_t ecn,
                       bint alone) noexcept nogil:
    """Of that room the first n bytes."""
    cdef uint32_t i = t.batch.dgram_len
    cdef vtl_datagram *d = &t.batch.dgram[i]
    t.batch.iov[i].iov_base, t.batch.iov[i].iov_len = t.tx + i * TX_SIZE, n
    d.to, d.first, d.count, d.size, d.ecn, d.alone = to[0], i, 1, <uint32_t>n, ecn, alone
    d.unproven = False
    t.batch.dgram_len = t.batch.iov_len = i + 1
    t.n.bytes_sent += n


cdef void packet_out(QuicAssociation *a, const ngtcp2_path *path, const ngtcp2_pkt_info *pi,
                     size_t n) noexcept nogil:
    cdef vtl_addr to = a.remote
    to.port = read_address(<const sockaddr_storage *>path.remote.addr, to.ip)
    datagram_add(of(a), &to, n, <uint8_t>pi.ecn, n > ngtcp2_conn_get_path_max_tx_udp_payload_size(a.tls.conn))
    a.bytes_sent += n


# ---- what the library says ---------------------------------------------------------------------------

cdef void on_random(uint8_t *out, size_t n, const ngtcp2_rand_ctx *ctx) noexcept nogil:
    getrandom(out, n, 0)


cdef int on_new_cid(ngtcp2_conn *c, ngtcp2_cid *cid, uint8_t *token, size_t n, void *user) noexcept nogil:
    cdef QuicAssociation *a = <QuicAssociation *>user
    name_cid(a.slot, a.mark, cid)
    reset_token(of(a), &a.remote, cid, token)
    return 0


cdef void replace(QuicAssociation *a) noexcept nogil:
    """Others that the same engine has begun are of one before it."""
    cdef QuicTransport *t = of(a)
    cdef QuicAssociation *other
    cdef uint32_t i
    for i in range(t.top):
        other = t.slots[i]
        if (other != NULL and other != a and not other.outgoing and other.state == QUIC_UP
                and memcmp(&other.peer, &a.peer, sizeof(PeerAddress)) == 0):
            fail(other, DOWN_REPLACED)


cdef void settle(QuicTransport *t) noexcept nogil:
    t.base.sink.settle(t.base.sink.ctx)
    t.rx_n = 0


cdef const uint8_t *keep(QuicTransport *t, const uint8_t *data, size_t n) noexcept nogil:
    """A copy that stays until settle(); NULL: it is too much."""
    cdef uint8_t *room
    if n > RX_KEPT:
        return NULL
    if n > RX_KEPT - t.rx_n:
        settle(t)
    room = t.rx + t.rx_n
    memcpy(room, data, n)
    t.rx_n += <uint32_t>n
    return room


cdef void take_message(QuicAssociation *a, const Message *m, bint stable) noexcept nogil:
    cdef QuicTransport *t = of(a)
    cdef Message pong
    if m.token != 0 or (m.type != MSG_PING and m.type != MSG_PONG):
        t.base.sink.message(t.base.sink.ctx, &a.base, m, stable)
    elif m.type == MSG_PING:
        memset(&pong, 0, sizeof(pong))
        pong.type = MSG_PONG
        out_say(&a.out, &pong)
    else:
        answered(a)


cdef int on_stream_data(ngtcp2_conn *c, uint32_t flags, int64_t id, uint64_t offset, const uint8_t *data,
                        size_t n,
                        void *user, void *stream) noexcept nogil:
    cdef QuicAssociation *a = <QuicAssociation *>user
    cdef uint64_t lane = <uint64_t>id >> 2
    cdef const uint8_t *kept = NULL
    cdef inlet_verdict verdict
    cdef Message m
    if a.state == QUIC_DEAD:
        return 0
    if lane >= STREAMS or flags & NGTCP2_STREAM_DATA_FLAG_FIN:
        return NGTCP2_ERR_CALLBACK_FAILURE
    ngtcp2_conn_extend_max_stream_offset(c, id, n)
    ngtcp2_conn_extend_max_offset(c, n)
    hear(a)
    if lane > 0 and n:
        kept = keep(of(a), data, n)
    if kept != NULL:
        data = kept
    while a.state != QUIC_DEAD:
        verdict = inlet_next(&a.inlets[lane], lane == 0, &data, &n, &m)
        if verdict == INLET_HUNGRY:
            break
        if verdict == INLET_BROKEN:
            return NGTCP2_ERR_CALLBACK_FAILURE
        a.messages_received += 1
        if verdict == INLET_BAD_MESSAGE:
            of(a).base.bad_messages += 1
            continue
        if a.state == QUIC_STRANGER:
            replace(a)
        if a.state != QUIC_UP:
            up(a)
        take_message(a, &m, kept != NULL)
    return 0


cdef int on_acked(ngtcp2_conn *c, int64_t id, uint64_t offset, uint64_t n, void *user,
                  void *stream) noexcept nogil:
    cdef QuicAssociation *a = <QuicAssociation *>user
    cdef uint64_t lane = <uint64_t>id >> 2
    if lane < STREAMS:
        source_give(&of(a).sources, a.source, lane_free_acked(&a.lanes[lane], offset + n))
    hear(a)
    return 0


cdef int on_end(ngtcp2_conn *c, int64_t id, uint64_t size, uint64_t code, void *user,
                void *stream) noexcept nogil:
    return NGTCP2_ERR_CALLBACK_FAILURE


cdef int on_close(ngtcp2_conn *c, uint32_t flags, int64_t id, uint64_t code, void *user,
                  void *stream) noexcept nogil:
    return NGTCP2_ERR_CALLBACK_FAILURE


cdef int on_reset(ngtcp2_conn *c, const ngtcp2_pkt_stateless_reset *r, void *user) noexcept nogil:
    (<QuicAssociation *>user).why = DOWN_REPLACED
    return 0


cdef ngtcp2_callbacks CLIENT
cdef ngtcp2_callbacks SERVER


cdef void fill_callbacks(ngtcp2_callbacks *c) noexcept nogil:
    memset(c, 0, sizeof(ngtcp2_callbacks))
    c.client_initial = ngtcp2_crypto_client_initial_cb
    c.recv_client_initial = ngtcp2_crypto_recv_client_initial_cb
    c.recv_retry = ngtcp2_crypto_recv_retry_cb
    c.recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb
    c.encrypt = ngtcp2_crypto_encrypt_cb
    c.decrypt = ngtcp2_crypto_decrypt_cb
    c.hp_mask = ngtcp2_crypto_hp_mask_cb
    c.update_key = ngtcp2_crypto_update_key_cb
    c.delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb
    c.delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb
    c.get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb
    c.version_negotiation = ngtcp2_crypto_version_negotiation_cb
    c.rand = on_random
    c.get_new_connection_id = on_new_cid
    c.recv_stream_data = on_stream_data
    c.acked_stream_data_offset = on_acked
    c.stream_close = on_close
    c.stream_reset = on_end
    c.recv_stateless_reset = on_reset

fill_callbacks(&CLIENT)
fill_callbacks(&SERVER)
CLIENT.recv_client_initial = NULL
SERVER.client_initial = NULL
SERVER.recv_retry = NULL


# ---- it begins ---------------------------------------------------------------------------------------

cdef void configure(const QuicAssociation *a, ngtcp2_settings *s, ngtcp2_transport_params *p) noexcept nogil:
    cdef const QuicTransport *t = of(a)
    ngtcp2_settings_default(s)
    s.cc_algo, s.initial_ts, s.max_tx_udp_payload_size = t.congestion, t.now, TX_SIZE
    s.ack_thresh = ACK_EVERY
    s.handshake_timeout = HANDSHAKE_TIME            # alone: in a pair it would be an int's
    ngtcp2_transport_params_default(p)
    p.initial_max_stream_data_uni, p.initial_max_data = STREAM_WINDOW, CONNECTION_WINDOW
    p.initial_max_streams_uni, p.active_connection_id_limit = STREAMS, ACTIVE_IDS
    p.max_ack_delay = MAX_ACK_DELAY
    p.max_idle_timeout = 0                          # who is silent is asked


cdef bint conn_begin(QuicAssociation *a) noexcept nogil:
    cdef ngtcp2_settings s
    cdef ngtcp2_transport_params p
    cdef ngtcp2_cid own
    cdef Ends e
    configure(a, &s, &p)
    name_cid(a.slot, a.mark, &own)
    a.first.datalen = FIRST_CID
    getrandom(a.first.data, FIRST_CID, 0)
    fill_ends(&e, &a.remote)
    if ngtcp2_conn_client_new(&a.tls.conn, &a.first, &own, &e.path, NGTCP2_PROTO_VER_V1, &CLIENT, &s, &p,
                              &a.memory,
                              a) != 0:
        a.tls.conn = NULL
        return False
    if not tls_begin(&a.tls, &of(a).tls, False):
        return False
    ngtcp2_conn_set_tls_native_handle(a.tls.conn, a.tls.session)
    set_expiry(a)
    make_ready(a)
    return True


cdef bint conn_answer(QuicAssociation *a, const ngtcp2_pkt_hd *hd, const ngtcp2_cid *first,
                      bint retried) noexcept nogil:
    cdef ngtcp2_settings s
    cdef ngtcp2_transport_params p
    cdef ngtcp2_cid own
    cdef Ends e
    configure(a, &s, &p)
    name_cid(a.slot, a.mark, &own)
    a.first = hd.dcid
    p.original_dcid = first[0]
    if retried:
        p.retry_scid, p.retry_scid_present = hd.dcid, 1
        s.token = hd.token
    reset_token(of(a), &a.remote, &own, p.stateless_reset_token)
    p.stateless_reset_token_present = 1
    fill_ends(&e, &a.remote)
    if ngtcp2_conn_server_new(&a.tls.conn, &hd.scid, &own, &e.path, hd.version, &SERVER, &s, &p, &a.memory,
                              a) != 0:
        a.tls.conn = NULL
        return False
    if not tls_begin(&a.tls, &of(a).tls, True):
        return False
    ngtcp2_conn_set_tls_native_handle(a.tls.conn, a.tls.session)
    set_expiry(a)
    return True


cdef void opened(QuicAssociation *a) noexcept nogil:
    """The handshake is complete."""
    cdef uint32_t i
    for i in range(STREAMS):
        if ngtcp2_conn_open_uni_stream(a.tls.conn, &a.lanes[i].id, NULL) != 0:
            broken(a, NGTCP2_ERR_CALLBACK_FAILURE)
            return
    a.opened = True
    if a.state == QUIC_CONNECTING:
        up(a)


# ---- in ----------------------------------------------------------------------------------------------

cdef void broken(QuicAssociation *a, int error) noexcept nogil:
    """The library says that it cannot go on."""
    cdef bint early = a.state != QUIC_UP
    cdef down_reason why = DOWN_PROTOCOL
    a.error, a.farewell = error, True
    if error == NGTCP2_ERR_CRYPTO and early:
        why = DOWN_KEY
        of(a).n.key_mismatches += 1
    elif error == NGTCP2_ERR_NOMEM:
        why = DOWN_MEMORY
    elif error == NGTCP2_ERR_HANDSHAKE_TIMEOUT:
        why, a.farewell = DOWN_UNREACHABLE, False
    elif error == NGTCP2_ERR_RECV_VERSION_NEGOTIATION:
        why, a.farewell = DOWN_VERSION, False
    elif error == NGTCP2_ERR_IDLE_CLOSE:
        why, a.farewell = DOWN_SILENT, False
    elif error == NGTCP2_ERR_DROP_CONN or error == NGTCP2_ERR_CLOSING or error == NGTCP2_ERR_RETRY:
        why, a.farewell = DOWN_CLOSED, False
    fail(a, why)


cdef void ended(QuicAssociation *a) noexcept nogil:
    """The peer has closed it, or said by a stateless reset that it knows it no more."""
    cdef ngtcp2_connection_close_error e
    cdef bint early = a.state != QUIC_UP
    if a.why == DOWN_REPLACED:
        fail(a, DOWN_REPLACED)
        return
    ngtcp2_conn_get_connection_close_error(a.tls.conn, &e)
    if (early and e.type == NGTCP2_CONNECTION_CLOSE_ERROR_CODE_TYPE_TRANSPORT
            and TLS_ALERTS <= e.error_code < 2 * TLS_ALERTS):
        of(a).n.key_mismatches += 1
        fail(a, DOWN_KEY)
    else:
        fail(a, DOWN_UNREACHABLE if early else DOWN_CLOSED)


cdef void conn_read(QuicAssociation *a, const Datagram *d) noexcept nogil:
    cdef QuicTransport *t = of(a)
    cdef ngtcp2_pkt_info pi
    cdef Ends e
    cdef int r
    fill_ends(&e, &d.source)
    pi.ecn = d.ecn
    a.bytes_received += d.size
    t.n.bytes_received += d.size
    r = ngtcp2_conn_read_pkt(a.tls.conn, &e.path, &pi, d.data, d.size, t.now)
    if a.state == QUIC_DEAD:
        return
    if r == NGTCP2_ERR_DRAINING:
        ended(a)
        return
    if r != 0:
        broken(a, r)
        return
    if memcmp(a.remote.local, NOWHERE, 16) == 0:
        memcpy(a.remote.local, d.source.local, 16)
    a.blocked = 0                                   # perhaps: who still is says so again
    if not a.opened and ngtcp2_conn_get_handshake_completed(a.tls.conn):
        opened(a)
    make_ready(a)


# ---- out ---------------------------------------------------------------------------------------------

cdef Chunk *copy_chunk(QuicAssociation *a, uint32_t n) noexcept nogil:
    """Room for so many bytes out of its source's share. NULL: later."""
    cdef QuicTransport *t = of(a)
    cdef Chunk *c
    if not source_hold(&t.sources, a.source, chunk_cost(n)):
        a.starved = True
        return NULL
    c = chunk_new(n)
    if c == NULL:
        source_give(&t.sources, a.source, chunk_cost(n))
        a.starved = True
    t.held_peak = max(t.held_peak, t.sources.held)
    return c


cdef inline uint64_t lane_bit(const QuicAssociation *a, const Lane *l) noexcept nogil:
    return <uint64_t>1 << (l - a.lanes)


cdef void add_chunk(QuicAssociation *a, Lane *l, Chunk *c, uint32_t n) noexcept nogil:
    """Of which n bytes are used."""
    source_give(&of(a).sources, a.source, c.n - n)
    lane_add(l, chunk_cut(c, n))
    if lane_waits(l):
        a.waiting |= lane_bit(a, l)


cdef void load_words(QuicAssociation *a) noexcept nogil:
    cdef Batch *b = &of(a).shared.batch
    cdef Chunk *c
    cdef uint32_t i, at = 0
    if not out_talks(&a.out) or lane_waits(&a.lanes[0]) >= WORDS_AHEAD:
        return
    c = copy_chunk(a, WORDS_AHEAD + FRAME_ROOM)
    if c == NULL:
        return
    b.n = b.bytes = b.used = 0
    out_fill_words(&a.out, b, WORDS_AHEAD)
    for i in range(b.n):
        memcpy(c.bytes + at, b.iov[i].iov_base, b.iov[i].iov_len)
        at += <uint32_t>b.iov[i].iov_len
    add_chunk(a, &a.lanes[0], c, at)


cdef bint load_piece(QuicAssociation *a, QueueChannel *q, Lane *l) noexcept nogil:
    """A frame of its DATA, copied. False: later."""
    cdef Piece p
    cdef Chunk *c = copy_chunk(a, FRAME_ROOM + min(q.first.n, <uint32_t>CUT))
    if c == NULL:
        return False
    if not piece_take(q, &p):
        source_give(&of(a).sources, a.source, chunk_cost(c.n))
        free(c)
        return False
    memcpy(c.bytes, p.head, p.head_n)
    memcpy(c.bytes + p.head_n, p.item.data, p.item.n)
    add_chunk(a, l, c, p.head_n + p.item.n)
    q.lane_end = l.end
    return True


cdef void load_data(QuicAssociation *a) noexcept nogil:
    """Each channel whose lane has little to send, once."""
    cdef Link *k = a.out.busy.first
    cdef Link *last = a.out.busy.last
    cdef Link *after
    cdef QueueChannel *q
    cdef Lane *l
    while k != NULL:
        q, after = <QueueChannel *>k.owner, k.next
        l = &a.lanes[1 + q.lane]
        if lane_waits(l) < CUT:
            if not load_piece(a, q, l):
                return
            link_remove(&a.out.busy, k)
            if q.first != NULL:
                link_append(&a.out.busy, k, q)
        if k == last:
            return
        k = after


cdef Lane *next_lane(QuicAssociation *a) noexcept nogil:
    """Control messages first, then lanes in turns."""
    cdef uint64_t ready = a.waiting & ~a.blocked
    cdef uint64_t later = ready >> (a.turn + 1)
    if ready == 0:
        return NULL
    if ready & 1:
        return &a.lanes[0]
    a.turn = a.turn + 1 + lowest_bit(later) if later else lowest_bit(ready)
    return &a.lanes[a.turn]


cdef uint32_t lane_parts(const Lane *l, ngtcp2_vec *v) noexcept nogil:
    cdef Chunk *c = l.at
    cdef uint32_t n = 0, skip = l.at_n
    while c != NULL and n < PARTS:
        v[n].base, v[n].len = c.bytes + skip, c.n - skip
        skip = 0
        c = c.next
        n += 1
    return n


cdef void write_some(QuicAssociation *a, uint32_t packets) noexcept nogil:
    cdef QuicTransport *t = of(a)
    cdef ngtcp2_path_storage ps
    cdef ngtcp2_pkt_info pi
    cdef ngtcp2_vec v[PARTS]
    cdef Lane *l
    cdef uint8_t *room
    cdef ssize_t n, taken
    ngtcp2_path_storage_zero(&ps)
    while packets:
        room = datagram_room(t)
        if room == NULL:
            break
        if a.opened:
            load_words(a)
        l = next_lane(a) if a.opened else NULL
        if l == NULL and a.out.busy.first != NULL and a.opened and a.state == QUIC_UP:
            load_data(a)
            l = next_lane(a)
        n = ngtcp2_conn_writev_stream(
            a.tls.conn, &ps.path, &pi, room, datagram_size(a), &taken,
            NGTCP2_WRITE_STREAM_FLAG_MORE if l != NULL else NGTCP2_WRITE_STREAM_FLAG_NONE,
            l.id if l != NULL else -1, v, lane_parts(l, v) if l != NULL else 0, t.now)
        if l != NULL and taken > 0 and (n >= 0 or n == NGTCP2_ERR_WRITE_MORE):
            lane_gone(l, taken)
            if lane_waits(l) == 0:
                a.waiting &= ~lane_bit(a, l)
        if n == NGTCP2_ERR_STREAM_DATA_BLOCKED and l != NULL:
            a.blocked |= lane_bit(a, l)
        elif n == 0:
            break
        elif n > 0:
            packet_out(a, &ps.path, &pi, n)
            packets -= 1
        elif n != NGTCP2_ERR_WRITE_MORE:
            if a.state != QUIC_DEAD:
                broken(a, <int>n)
            return
    ngtcp2_conn_update_pkt_tx_time(a.tls.conn, t.now)
    if a.state != QUIC_DEAD:
        set_expiry(a)
        if packets == 0:
            make_ready(a)


cdef void conn_write(QuicAssociation *a) noexcept nogil:
    a.starved = False
    write_some(a, PACKETS)


cdef void conn_farewell(QuicAssociation *a) noexcept nogil:
    """What was said goes out yet, as far as the path takes it."""
    cdef QuicTransport *t = of(a)
    cdef ngtcp2_connection_close_error e
    cdef ngtcp2_path_storage ps
    cdef ngtcp2_pkt_info pi
    cdef uint8_t *room
    cdef ssize_t n
    if a.error == 0 and a.opened:
        write_some(a, FAREWELL_PACKETS)
    ngtcp2_connection_close_error_default(&e)
    if a.error == 0:
        ngtcp2_connection_close_error_set_application_error(&e, 0, NULL, 0)
    elif a.error == NGTCP2_ERR_CRYPTO:
        ngtcp2_connection_close_error_set_transport_error_tls_alert(
            &e, ngtcp2_conn_get_tls_alert(a.tls.conn), NULL, 0)
    else:
        ngtcp2_connection_close_error_set_transport_error_liberr(&e, a.error, NULL, 0)
    room = datagram_room(t)
    if room == NULL:
        return
    ngtcp2_path_storage_zero(&ps)
    n = ngtcp2_conn_write_connection_close(a.tls.conn, &ps.path, &pi, room, datagram_size(a), &e, t.now)
    if n > 0:
        packet_out(a, &ps.path, &pi, n)


cdef void conn_expired(QuicAssociation *a) noexcept nogil:
    cdef int r = ngtcp2_conn_handle_expiry(a.tls.conn, of(a).now)
    if r != 0:
        broken(a, r)
        return
    a.expiry = ~<uint64_t>0                         # until it has written
    make_ready(a)
