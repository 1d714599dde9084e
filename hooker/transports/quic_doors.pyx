"""Datagrams: whose they are, and what becomes of those that are nobody's.

1. Ours name their association (quic_conn.pyx, 4). Others are looked for among those that peers have begun.
2. An Initial makes a stranger: so many in all, so many of one source and in one round, for HELLO_TIME; of
   those of all sources the oldest makes room. Beyond MAX_INCOMING, or where no memory is left for a source
   that has none, what has been unused for longest does. Then, and from RETRY_FROM strangers on, or
   SOURCE_RETRY of one source, its sender has to show first that it hears us (Retry; RFC 9000, 8.1.2), for
   which nothing is kept. The library sends an address that has not done so three times what has come from
   there at most.
3. All other answers are smaller than what they answer and keep nothing: which versions there are, and that
   a connection is not known (stateless reset; 10.3). Of these so many leave in a second (21.5), and for so
   many it is looked whether they are a peer's.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport Datagram, PathError
from hooker.includes.bytes cimport load16
from hooker.includes.linux cimport ECONNREFUSED
from hooker.includes.ngtcp2 cimport *
from hooker.includes.bucket cimport bucket_take
from hooker.transports.contract cimport *
from hooker.transports.quic_conn cimport *
from hooker.transports.quic_core cimport *
from hooker.transports.quic_tls cimport SECRET_SIZE
from hooker.transports.sources cimport longest_unused, may_make_room, source_known
from hooker.vtl.api cimport vtl_addr

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    MAX_INCOMING = SLOTS // 4 * 3
    MAX_STRANGERS = 256
    SOURCE_STRANGERS = 16
    SOURCE_RETRY = 4
    BEGIN_MOST = 16            # in one round: each costs a handshake's arithmetic
    SOURCE_ASSOCS = 64
    RETRY_FROM = 32            # strangers
    LEAST_INITIAL = 1200       # bytes of a datagram that may begin something
    LEAST_RESET = 43           # bytes of one that is answered by a reset, and of that
    RESET_RATE = 200           # per second
    RESET_BURST = 100
    LOOK_RATE = 1000
    LOOK_BURST = 200
    TOKEN_ROOM = 256           # bytes
    TOKEN_LASTS = 10000000000  # ns
    HELLO_TIME = 3000000000
    COST = 168 << 10           # bytes of memory for an association, about


cdef QuicAssociation *named(QuicTransport *t, const uint8_t *cid, size_t n, bint first) noexcept nogil:
    """Whose connection id it is. Ours say their slot; a peer's first packets have one of its own."""
    cdef QuicAssociation *a
    cdef uint32_t i
    if n == CID_SIZE:
        i = load16(cid)
        a = t.slots[i] if i < SLOTS else NULL
        if a != NULL and a.mark == load16(cid + 2):
            return a
    for i in range(t.top if first else 0):
        a = t.slots[i]
        if a != NULL and not a.outgoing and a.first.datalen == n and memcmp(a.first.data, cid, n) == 0:
            return a
    return NULL


# ---- answers that keep nothing -----------------------------------------------------------------------

cdef void say_versions(QuicTransport *t, const Datagram *d, const ngtcp2_version_cid *v) noexcept nogil:
    cdef uint32_t ours = NGTCP2_PROTO_VER_V1
    cdef uint8_t *room = datagram_room(t) if d.size >= LEAST_INITIAL else NULL
    cdef uint8_t noise
    cdef ssize_t n
    if room == NULL:
        return
    getrandom(&noise, 1, 0)
    n = ngtcp2_pkt_write_version_negotiation(room, TX_SIZE, noise, v.scid, v.scidlen, v.dcid, v.dcidlen,
                                             &ours, 1)
    if n > 0:
        t.n.version_answers += 1
        datagram_add(t, &d.source, n, 0, False)


cdef void say_unknown(QuicTransport *t, const Datagram *d, const ngtcp2_version_cid *v) noexcept nogil:
    """Shorter than what it answers, so that two of us do not answer each other for ever."""
    cdef uint8_t noise[LEAST_RESET]
    cdef uint8_t token[16]
    cdef uint8_t *room
    cdef ngtcp2_cid cid
    cdef ssize_t n
    if d.size <= LEAST_RESET or v.dcidlen != CID_SIZE:
        return
    room = NULL
    if bucket_take(&(<QuicDoors *>t).answers, t.now, RESET_RATE, RESET_BURST):
        room = datagram_room(t)
    if room == NULL:
        t.n.dropped += 1
        return
    cid.datalen = CID_SIZE
    memcpy(cid.data, v.dcid, CID_SIZE)
    reset_token(t, &d.source, &cid, token)
    getrandom(noise, sizeof(noise), 0)
    n = ngtcp2_pkt_write_stateless_reset(room, LEAST_RESET, token, noise, LEAST_RESET - 16)
    if n > 0:
        t.n.resets += 1
        datagram_add(t, &d.source, n, 0, False)


cdef void say_retry(QuicTransport *t, const Datagram *d, const ngtcp2_pkt_hd *hd) noexcept nogil:
    cdef uint8_t token[TOKEN_ROOM]
    cdef uint8_t *room = datagram_room(t)
    cdef ngtcp2_cid own
    cdef Ends e
    cdef ssize_t n
    if room == NULL:
        return
    own.datalen = CID_SIZE
    getrandom(own.data, CID_SIZE, 0)
    fill_ends(&e, &d.source)
    n = ngtcp2_crypto_generate_retry_token(token, t.token_secret, SECRET_SIZE, hd.version, e.path.remote.addr,
                                           e.path.remote.addrlen, &own, &hd.dcid, t.now)
    if n > 0:
        n = ngtcp2_crypto_write_retry(room, TX_SIZE, hd.version, &hd.scid, &own, &hd.dcid, token, n)
    if n > 0:
        t.n.retries += 1
        datagram_add(t, &d.source, n, 0, False)


# ---- strangers ---------------------------------------------------------------------------------------

cdef void evict(QuicTransport *t) noexcept nogil:
    """The oldest stranger makes room."""
    cdef QuicAssociation *found = NULL
    cdef QuicAssociation *a
    cdef uint32_t i
    for i in range(t.top):
        a = t.slots[i]
        if a != NULL and a.state == QUIC_STRANGER and (found == NULL or a.began < found.began):
            found = a
    if found != NULL:
        t.n.evicted += 1
        fail(found, DOWN_CLOSED)


cdef uint64_t unused(const Association *base) noexcept nogil:
    cdef const QuicAssociation *a = <const QuicAssociation *>base
    return a.idle_since if a.state == QUIC_UP and not a.outgoing and not in_use(a) else 0


cdef bint end_unused(QuicTransport *t) noexcept nogil:
    """The one that has been unused for longest makes room. False: there is none."""
    cdef QuicAssociation *a = <QuicAssociation *>longest_unused(<Association **>t.slots, t.top, unused)
    if a == NULL:
        return False
    t.n.evicted += 1
    a.farewell = True
    fail(a, DOWN_CLOSED)
    return True


cdef inline bint is_short(const QuicTransport *t) noexcept nogil:
    """Of memory for a source's first one: it may have as much as it leaves to the others."""
    return t.sources.budget - t.sources.held < 2 * COST


cdef bint make_memory(QuicTransport *t) noexcept nogil:
    """Of two, for one. It is there with the next flush(); who wants it will have said its Initial again."""
    if not may_make_room(&t.sources, t.now) or not end_unused(t):
        return False
    end_unused(t)
    return True


cdef bint make_room(QuicTransport *t) noexcept nogil:
    """For one more, which is counted already. False: all are of use, or too many come at once."""
    if t.count > MAX_INCOMING and not may_make_room(&t.sources, t.now):
        return False
    if t.strangers >= MAX_STRANGERS:
        evict(t)
        return True
    return t.count <= MAX_INCOMING or end_unused(t)


cdef QuicAssociation *place_for(QuicTransport *t, const Datagram *d, bint *full) noexcept nogil:
    """Of a new stranger; NULL: there is none. `full`: that is not for what its own source has."""
    cdef PeerAddress peer
    cdef QuicAssociation *a
    full[0] = False
    if t.begun >= BEGIN_MOST:
        return NULL
    memset(&peer, 0, sizeof(peer))
    memcpy(peer.ip, d.source.ip, 16)
    peer.port = d.source.port - 1
    full[0] = t.count >= MAX_INCOMING or (is_short(t) and not source_known(&t.sources, &peer))
    a = association_new(t, &peer)
    if a != NULL and (a.source.assocs > SOURCE_ASSOCS or a.source.strangers >= SOURCE_STRANGERS):
        association_free(t, a)
        a, full[0] = NULL, False
    return a


cdef QuicAssociation *welcome(QuicAssociation *a, const Datagram *d, const ngtcp2_pkt_hd *hd,
                              const ngtcp2_cid *first,
                              bint retried) noexcept nogil:
    cdef QuicTransport *t = of(a)
    a.remote = d.source
    if not make_room(t):
        t.n.refused += 1
        association_free(t, a)
        return NULL
    t.begun += 1
    if not conn_answer(a, hd, first, retried):
        association_free(t, a)
        return NULL
    a.state = QUIC_STRANGER
    t.strangers += 1
    a.source.strangers += 1
    t.n.accepted += 1
    set_due(a, t.now + HELLO_TIME)
    return a


cdef bint shows_it_hears(QuicTransport *t, const Datagram *d, const ngtcp2_pkt_hd *hd,
                         ngtcp2_cid *first) noexcept nogil:
    cdef Ends e
    fill_ends(&e, &d.source)
    return (hd.token.base[0] == NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY
            and ngtcp2_crypto_verify_retry_token(
                first, hd.token.base, hd.token.len, t.token_secret, SECRET_SIZE, hd.version,
                e.path.remote.addr, e.path.remote.addrlen, &hd.dcid, TOKEN_LASTS, t.now) == 0)


cdef QuicAssociation *begun(QuicTransport *t, const Datagram *d) noexcept nogil:
    """By an Initial; NULL: it is not to be had, or its sender was asked to show that it hears us."""
    cdef ngtcp2_pkt_hd hd
    cdef ngtcp2_cid first
    cdef QuicAssociation *a
    cdef bint full
    if d.size < LEAST_INITIAL or ngtcp2_accept(&hd, d.data, d.size) != 0:
        t.n.dropped += 1
        return NULL
    if hd.token.len and not shows_it_hears(t, d, &hd, &first):
        t.n.dropped += 1
        return NULL
    a = place_for(t, d, &full)
    if a == NULL and not full:
        t.n.refused += 1
        return NULL
    if hd.token.len == 0 and not full and t.strangers < RETRY_FROM and a.source.strangers < SOURCE_RETRY:
        return welcome(a, d, &hd, &hd.dcid, False)
    if hd.token.len and a != NULL and not (full and is_short(t) and make_memory(t)):
        return welcome(a, d, &hd, &first, True)
    if a != NULL:
        association_free(t, a)
    if hd.token.len:
        t.n.refused += 1
    else:
        say_retry(t, d, &hd)
    return NULL


cdef void maybe_reset(QuicTransport *t, const Datagram *d) noexcept nogil:
    """A stateless reset names no connection of ours: who has one with that address looks."""
    cdef PeerAddress peer
    cdef QuicAssociation *a
    cdef uint32_t i
    memcpy(peer.ip, d.source.ip, 16)
    if (not source_known(&t.sources, &peer)
            or not bucket_take(&(<QuicDoors *>t).looks, t.now, LOOK_RATE, LOOK_BURST)):
        return
    for i in range(t.top):
        a = t.slots[i]
        if (a != NULL and (a.state == QUIC_UP or a.state == QUIC_CONNECTING)
            and a.remote.port == d.source.port
                and memcmp(a.remote.ip, d.source.ip, 16) == 0):
            conn_read(a, d)


# ---- all of them -------------------------------------------------------------------------------------

cdef void datagram_in(QuicTransport *t, const Datagram *d) noexcept nogil:
    cdef ngtcp2_version_cid v
    cdef QuicAssociation *a
    cdef int r = ngtcp2_pkt_decode_version_cid(&v, d.data, d.size, CID_SIZE)
    if r == NGTCP2_ERR_VERSION_NEGOTIATION:
        say_versions(t, d, &v)
        return
    if r != 0:
        t.n.dropped += 1
        return
    a = named(t, v.dcid, v.dcidlen, d.data[0] & 0x80)
    if a == NULL and d.data[0] & 0x80:
        a = begun(t, d)
    elif a == NULL:
        maybe_reset(t, d)
        say_unknown(t, d, &v)
    if a != NULL and a.state != QUIC_DEAD:
        conn_read(a, d)


cdef void path_error(QuicTransport *t, const PathError *e, int error) noexcept nogil:
    """Only who is on the path can quote a connection id; whoever is up is then asked."""
    cdef QuicAssociation *a
    cdef const ngtcp2_cid *cid
    cdef uint32_t i, at
    if error != ECONNREFUSED or e.size < 1:
        return
    at = 6 if e.quoted[0] & 0x80 else 1             # behind version and length, or the first byte
    for i in range(t.top):
        a = t.slots[i]
        if a == NULL or a.tls.conn == NULL or a.state == QUIC_DEAD or a.state == QUIC_STRANGER:
            continue
        cid = ngtcp2_conn_get_dcid(a.tls.conn)
        if (cid.datalen == 0 or e.size < at + cid.datalen or at + cid.datalen > sizeof(e.quoted)
                or memcmp(e.quoted + at, cid.data, cid.datalen) != 0):
            continue
        if a.state == QUIC_CONNECTING:
            fail(a, DOWN_UNREACHABLE)
        else:
            doubt(a)
        return
