"""Packets that no association's packet numbers count: cookies, stateless resets, and an association's last word.

They wait in the endpoint until the next batch; what cannot wait there is not said, as if it had been lost.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memmove
from hooker.vtl.api cimport *
from hooker.vtl.builder cimport *
from hooker.vtl.cookie cimport COOKIE_TIME_BITS, cookie_mac
from hooker.vtl.core cimport *
from hooker.vtl.keys cimport keys_seal
from hooker.vtl.wire cimport *

cdef enum:
    RESET_RATE = 200           # stateless resets per second
    RESET_BURST = 100


# --- what is to be said

cdef Stateless *answer(Endpoint *ep, uint8_t type, const vtl_addr *to, uint64_t dcid,
                       uint64_t number) noexcept nogil:
    """Queues a packet that belongs to no association; NULL when too many wait."""
    cdef Stateless *t
    if ep.answers == STATELESS_SLOTS:
        return NULL
    t = &ep.answer[ep.answers]
    t.to = to[0]
    t.to.zero = 0
    t.type = type
    t.dcid = dcid
    t.number = number
    t.psk = t.phase = 0
    t.at = ep.now >> COOKIE_TIME_BITS
    ep.answers += 1
    return t


cdef Stateless *answer_unproven(Endpoint *ep, uint8_t type, const vtl_addr *to, uint64_t dcid,
                                uint64_t number) noexcept nogil:
    """An answer to the datagram in hand, whose source nobody has proven: RFC 9000 8."""
    cdef uint32_t size = DATA_HEADER
    if type == PKT_COOKIE:
        size = HEADER_SIZE + COOKIE_FIXED + 4 * ep.cfg.n_versions + (TAG_SIZE if ep.cfg.keys > 0 else 0)
    if size > AMPLIFICATION * ep.source_size:
        ep.count.amplification_limited += 1
        return NULL
    ep.count.unproven_received += ep.source_size
    ep.count.unproven_sent += size
    return answer(ep, type, to, dcid, number)


cdef void answer_unknown(Endpoint *ep, const vtl_addr *to, const Header *h, uint64_t now) noexcept nogil:
    """Tells the sender of a DATA packet that its association is gone, at a limited rate.

    The answer repeats the connection id and packet number it got, which only the path knows."""
    ep.reset_tokens += <double>(now - ep.reset_at) * RESET_RATE / 1e9
    ep.reset_tokens = min(ep.reset_tokens, <double>RESET_BURST)
    ep.reset_at = now
    if ep.reset_tokens >= 1:
        ep.reset_tokens -= 1
        answer_unproven(ep, PKT_STATELESS_RESET, to, h.dcid, h.number)


cdef void say_close(Assoc *a, uint32_t reason) noexcept nogil:
    """Encrypted like DATA if there are keys, with the next packet number: the last one."""
    cdef Stateless *t = answer(a.ep, PKT_CLOSE, &a.peer, a.peer_cid, a.cid)
    cdef uint8_t packet[HEADER_SIZE + CLOSE_BODY]
    cdef uint8_t sealed[HEADER_SIZE + CLOSE_BODY + TAG_SIZE]
    cdef iovec part
    if t == NULL:
        return
    store32(t.close, reason)
    t.close_n = CLOSE_BODY
    if a.keys == NULL:
        return
    t.number = a.rec.next_pn
    write_header(packet, PKT_CLOSE, t.dcid, t.number)
    store32(packet + HEADER_SIZE, reason)
    part.iov_base = packet
    part.iov_len = sizeof(packet)
    if not keys_seal(a, t.number, &part, 1, HEADER_SIZE, sealed):
        a.ep.answers -= 1
        return
    t.phase = sealed[1]
    t.close_n = CLOSE_BODY + TAG_SIZE
    memcpy(t.close, sealed + HEADER_SIZE, t.close_n)


# --- saying it

cdef void build_answer(Endpoint *ep, vtl_batch *b, const Stateless *t) noexcept nogil:
    cdef Builder d
    cdef uint8_t *p
    begin(&d, b, NULL, 128)
    if t.type == PKT_COOKIE:
        p = put(&d, HEADER_SIZE + COOKIE_FIXED + 4 * ep.cfg.n_versions)
        store32(p + HEADER_SIZE, ep.cfg.n_versions << 24)
        store64(p + HEADER_SIZE + 4, t.at)
        store64(p + HEADER_SIZE + 12, cookie_mac(ep, &t.to, t.dcid, t.number, t.at))
        write_versions(p + HEADER_SIZE + COOKIE_FIXED, ep.cfg.versions, ep.cfg.n_versions)
        if ep.cfg.keys > 0:
            write_header(p, t.type, t.dcid, t.number)
            sign(&d, &ep.psk[t.psk])
    elif t.type == PKT_CLOSE:
        p = put(&d, HEADER_SIZE + t.close_n)
        memcpy(p + HEADER_SIZE, t.close, t.close_n)
    else:
        p = put(&d, DATA_HEADER)
        write_short_header(p, t.type, t.dcid, t.number)
    if not t.type & PKT_SHORT:
        write_header(p, t.type, t.dcid, t.number)
        p[1] = t.phase
    finish(&d, &t.to)
    b.dgram[b.dgram_len - 1].unproven = True


cdef void answers_build(Endpoint *ep, vtl_batch *b, uint64_t now) noexcept nogil:
    cdef uint32_t i
    for i in range(ep.answers):
        if not batch_room(b):
            memmove(&ep.answer[0], &ep.answer[i], (ep.answers - i) * sizeof(Stateless))
            ep.answers -= i
            return
        build_answer(ep, b, &ep.answer[i])
    ep.answers = 0
