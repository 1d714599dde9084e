"""The keys of an association: where they come from, when they change.

A pre-shared key signs the handshake. From it, the version and both connection ids comes a secret for each
direction, and from that a key and an iv. One bit in the header says which of two phases of the keys a packet
belongs to; when an endpoint has sent enough with one phase it goes on with the next, and the other side
follows (RFC 9001 6). A packet is opened with one key only: the phase bit and the packet number decide.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from hooker.vtl.aead cimport *
from hooker.vtl.api cimport *
from hooker.vtl.core cimport *
from hooker.vtl.recovery cimport recovery_pto
from hooker.vtl.wire cimport *

cdef enum:
    UPDATE_AFTER = 1 << 20     # packets; RFC 9001 6.6 allows 2^23 with AES-GCM
    SEND_LIMIT = 1 << 23       # packets with one key, RFC 9001 6.6
    OLD_KEYS_PTO = 3           # the old phase is kept for packets on their way, RFC 9001 6.5
    OLD = 0
    CURRENT = 1
    NEXT = 2

cdef const uint8_t *SALT = b"vtl-psk-1"
cdef const uint8_t *HANDSHAKE = b"vtl2 handshake"
cdef const uint8_t *ASSOCIATION = b"vtl2 association"
cdef const uint8_t *INITIATOR = b"vtl2 initiator"
cdef const uint8_t *RESPONDER = b"vtl2 responder"
cdef const uint8_t *KEY = b"vtl2 key"
cdef const uint8_t *IV = b"vtl2 iv"
cdef const uint8_t *UPDATE = b"vtl2 update"


# --- a pre-shared key

cdef void psk_init(Psk *p, const uint8_t *key) noexcept nogil:
    hkdf_extract(SALT, 9, key, SECRET_SIZE, p.secret)
    hkdf_expand(p.secret, HANDSHAKE, 14, p.handshake, SECRET_SIZE)


cdef void psk_sign(const Psk *p, const uint8_t *packet, size_t n, uint8_t *tag) noexcept nogil:
    cdef uint8_t mac[SECRET_SIZE]
    hmac_sha256(p.handshake, SECRET_SIZE, packet, n, mac)
    memcpy(tag, mac, TAG_SIZE)


cdef int psk_verify(const Endpoint *ep, Cursor *c, const uint8_t *packet) noexcept nogil:
    cdef uint8_t due[TAG_SIZE]
    cdef size_t n = c.p - packet
    cdef const uint8_t *tag = take(c, TAG_SIZE)
    cdef uint32_t i
    if tag == NULL:
        return -1
    for i in range(ep.cfg.keys):
        psk_sign(&ep.psk[i], packet, n, due)
        if same_bytes(due, tag, TAG_SIZE):
            return <int>i
    return -1


# --- key schedule

cdef bint phase_start(Phase *p, uint32_t cipher, bint seal) noexcept nogil:
    """Key and iv from the secret."""
    cdef uint8_t key[SECRET_SIZE]
    cdef EVP_CIPHER_CTX *ctx
    hkdf_expand(p.secret, KEY, 8, key, aead_key_size(cipher))
    hkdf_expand(p.secret, IV, 7, p.iv, IV_SIZE)
    ctx = aead_start(p.ctx, cipher, key, seal)
    wipe(key, sizeof(key))
    if ctx != NULL:
        p.ctx = ctx
    return ctx != NULL


cdef bint phase_after(Phase *p, const Phase *before, uint32_t cipher, bint seal) noexcept nogil:
    cdef uint8_t secret[SECRET_SIZE]
    hkdf_expand(before.secret, UPDATE, 11, secret, SECRET_SIZE)
    memcpy(p.secret, secret, SECRET_SIZE)
    wipe(secret, sizeof(secret))
    return phase_start(p, cipher, seal)


cdef void association_secret(const Assoc *a, uint8_t *out) noexcept nogil:
    cdef uint8_t info[36]
    memcpy(info, ASSOCIATION, 16)
    store32(info + 16, a.version)
    store64(info + 20, a.cid if a.initiator else a.peer_cid)
    store64(info + 28, a.peer_cid if a.initiator else a.cid)
    hkdf_expand(a.ep.psk[a.psk].secret, info, sizeof(info), out, SECRET_SIZE)


cdef bint keys_install(Assoc *a) noexcept nogil:
    cdef uint8_t secret[SECRET_SIZE]
    cdef Keys *k
    cdef bint ok
    keys_free(a)
    k = <Keys *>calloc(1, sizeof(Keys))
    if k == NULL:
        return False
    a.keys = k
    k.cipher = a.version & 0xff
    k.tx_since = a.rec.next_pn
    association_secret(a, secret)
    hkdf_expand(secret, INITIATOR if a.initiator else RESPONDER, 14, k.tx.secret, SECRET_SIZE)
    hkdf_expand(secret, RESPONDER if a.initiator else INITIATOR, 14, k.rx[CURRENT].secret, SECRET_SIZE)
    wipe(secret, sizeof(secret))
    ok = phase_start(&k.tx, k.cipher, True) and phase_start(&k.rx[CURRENT], k.cipher, False)
    if not ok or not phase_after(&k.rx[NEXT], &k.rx[CURRENT], k.cipher, False):
        keys_free(a)
        return False
    return True


cdef void keys_free(Assoc *a) noexcept nogil:
    cdef uint32_t i
    if a.keys == NULL:
        return
    aead_free(a.keys.tx.ctx)
    for i in range(3):
        aead_free(a.keys.rx[i].ctx)
    wipe(a.keys, sizeof(Keys))
    free(a.keys)
    a.keys = NULL


# --- key update

cdef bint update_tx(Assoc *a) noexcept nogil:
    cdef Keys *k = a.keys
    if not phase_after(&k.tx, &k.tx, k.cipher, True):
        return False
    k.tx_phase ^= 1
    k.tx_since = a.rec.next_pn
    k.updates += 1
    return True


cdef bint update_rx(Assoc *a, uint64_t pn, uint64_t now) noexcept nogil:
    """The peer uses the next phase; so do we from now on."""
    cdef Keys *k = a.keys
    cdef Phase spare = k.rx[OLD]
    k.rx[OLD] = k.rx[CURRENT]
    k.rx[CURRENT] = k.rx[NEXT]
    k.rx[NEXT] = spare
    k.rx_phase ^= 1
    k.rx_since = pn
    k.old_until = now + OLD_KEYS_PTO * recovery_pto(&a.rec)
    if not phase_after(&k.rx[NEXT], &k.rx[CURRENT], k.cipher, False):
        return False
    return k.tx_phase == k.rx_phase or update_tx(a)


cdef bint keys_ready(Assoc *a) noexcept nogil:
    cdef Keys *k = a.keys
    cdef uint64_t sent = a.rec.next_pn - k.tx_since
    cdef uint64_t enough = a.ep.cfg.key_update_after if a.ep.cfg.key_update_after > 0 else UPDATE_AFTER
    # not before the peer has followed the last update and acknowledged a packet of this phase: RFC 9001 6.1
    if (sent >= enough and a.state == A_UP and k.tx_phase == k.rx_phase and a.rec.largest_acked >= k.tx_since
            and not update_tx(a)) or sent >= SEND_LIMIT:
        assoc_fail(a, VTL_DOWN_AEAD_LIMIT)
        return False
    return True


# --- packets

cdef bint keys_seal(Assoc *a, uint64_t pn, iovec *part, uint32_t parts, uint32_t header, uint8_t *out) noexcept nogil:
    cdef Keys *k = a.keys
    memcpy(out, part[0].iov_base, header)
    if header == DATA_HEADER:
        out[0] |= k.tx_phase
    else:
        out[1] = k.tx_phase
    part[0].iov_base = <uint8_t *>part[0].iov_base + header
    part[0].iov_len -= header
    return aead_seal(k.tx.ctx, k.tx.iv, pn, out, header, part, parts, out + header)


cdef int forged(Assoc *a) noexcept nogil:
    cdef Keys *k = a.keys
    k.forged += 1
    if k.forged >> (36 if k.cipher == CHACHA20_POLY1305 else 52):      # RFC 9001 6.6
        assoc_fail(a, VTL_DOWN_AEAD_LIMIT)
    return VTL_DROP_AUTH


cdef int keys_open(Assoc *a, Cursor *c, const Header *h, uint64_t pn, uint64_t now) noexcept nogil:
    cdef Keys *k = a.keys
    cdef uint8_t *data = <uint8_t *>c.p
    cdef int which = CURRENT
    if c.n < TAG_SIZE:
        return VTL_DROP_SHORT
    if h.phase != k.rx_phase:
        which = OLD if pn < k.rx_since and now < k.old_until else NEXT
    if not aead_open(k.rx[which].ctx, k.rx[which].iv, pn, h.start, h.size, data, c.n):
        return forged(a)
    c.n -= TAG_SIZE
    if which == NEXT and not update_rx(a, pn, now):
        assoc_fail(a, VTL_DOWN_AEAD_LIMIT)
        return VTL_DROP_AUTH
    if which == CURRENT and pn < k.rx_since:
        k.rx_since = pn
    return VTL_OK
