"""The trail: bare ACKs on the wire, so that what is between the hosts knows where an engaged flow stands.

A firewall that follows connections, and so every NAT, believes a segment only if it fits what it has seen. Of an engaged flow
it would see nothing, and after its return to TCP take its numbers for forged ones. So it sees what TCP itself would have
shown it, headers, in the order in which they mean something: where the local TCP's bytes end goes to the wire before the bytes
go to the transport, and what it has acknowledged before the peer is told. Then no acknowledgement comes by before the
number it acknowledges, and no number before the window that allows it; nothing has to be agreed on the way.

1. Once in a round for a flow whose numbers have moved, and when a kernel probes (keepalive): a flow at rest says nothing, as TCP.
2. SEQ is behind what the local TCP has sent; ACK and window are those of its newest ACK, once the peer has said in this epoch
   that it has a trail, too. Before that they stay as the wire knows them: what the peer has sent by the transport may not have
   been shown, and an ACK of that a NAT takes for nobody's, and answers with a RST (it is for its own address).
3. TSval is what the first ENGAGED said, TSecr what the kernel echoed last: a newer TSval would overtake data that is in the
   transport, which the far kernel would then drop as old (PAWS).
4. Nothing goes as DATA before both are engaged (EARLY), for the wire would not see it, and a bare ACK may not come before the
   bytes there: who has not kept the handshake (SYN cookies) answers with a RST. A client whose flows with that peer had a trail
   expects one. What another one has sent early its peer has dropped: those are bytes of the wire from then on.
5. Of a flow whose peer wants no trail (TRAIL_NEVER) nothing is shown: numbers beyond windows that nobody shows would be
   nobody's, too. Who wants one has said so in OPEN or ACCEPT, so a client hears of that with ACCEPT, a service with the
   client's first ENGAGED.
6. When both directions are over, a RST one beyond the number that would count: the entry between the hosts goes, the hosts
   take no notice.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from hooker.engine.flows cimport flow_key_of
from hooker.engine.kept cimport kept_acked
from hooker.engine.wire cimport wire_kept, wire_newest, wire_trail
from hooker.engine.worker cimport *
from hooker.flow.machine cimport FL_EARLY, FL_EARLY_WAITS, ROLE_CLIENT, ST_ENGAGED
from hooker.flow.messages cimport MSG_ACCEPT, MSG_ENGAGED, MSG_OPEN, TRAIL, Message
from hooker.includes.hk cimport hk_key
from hooker.tcp.segment cimport FLAG_RST
from hooker.tcp.twin cimport twin_finished
from hooker.includes.siphash cimport siphash24


cdef void put_ends(uint8_t *out, const uint8_t *client, uint16_t client_port, const uint8_t *server,
                   uint16_t server_port) noexcept nogil:
    memcpy(out, client, 16)
    memcpy(out + 16, server, 16)
    out[32], out[33] = client_port >> 8, client_port & 0xFF
    out[34], out[35] = server_port >> 8, server_port & 0xFF


cdef uint32_t trail_ends(const flow *f) noexcept nogil:
    """With a key that only the two ends know: who else reads it learns nothing of addresses behind a NAT."""
    cdef hk_key key
    cdef uint64_t secret[2]
    cdef uint8_t both[36]
    flow_key_of(f, &key)
    memcpy(secret, f.proof_key + 2, sizeof(secret))
    if f.f.role == ROLE_CLIENT:
        put_ends(both, key.local_ip, key.local_port, key.remote_ip, key.remote_port)
    else:
        put_ends(both, key.remote_ip, key.remote_port, key.local_ip, key.local_port)
    return <uint32_t>siphash24(secret, both, sizeof(both)) | 1


cdef bint trail_wanted(const worker *w) noexcept nogil:
    return w.trail == TRAIL_ALWAYS and not w.pinned


cdef void trail_heard(worker *w, flow *f, const Message *m) noexcept nogil:
    cdef bint wanted = m.flags & TRAIL
    if m.type == MSG_OPEN or m.type == MSG_ACCEPT:
        f.translated = sees_others(f, m)
    if w.trail == TRAIL_NEVER or w.pinned:
        return                          # its flows never go back
    if m.type == MSG_OPEN:
        wanted |= trail_wanted(w) or sees_others(f, m)
    elif not wanted:                    # it would have one, had it not been told to have none
        if m.epoch == f.f.epoch:
            f.bits &= ~<uint16_t>F_TRAIL
        return
    elif m.type == MSG_ENGAGED and m.epoch == f.f.epoch:
        f.trail_both = m.epoch
    if wanted and not f.bits & F_TRAIL:
        trail_start(w, f)


cdef inline bint sees_others(const flow *f, const Message *m) noexcept nogil:
    return m.position != 0 and m.position != trail_ends(f)


cdef void trail_start(worker *w, flow *f) noexcept nogil:
    f.bits |= F_TRAIL
    w.n.trails += 1
    if f.p != NULL:
        f.p.trails = True
    f.f.flags &= ~FL_EARLY
    if f.f.flags & FL_EARLY_WAITS:      # dropped there: whoever repeats it is not told that the transport does
        f.f.flags &= ~FL_EARLY_WAITS
        f.f.wire_high = f.f.snd_nxt
        w.n.early_on_wire += 1
        kept_acked(w, f)
        wire_kept(w, f)
        wire_newest(w, f)


cdef void trail_expect(worker *w, flow *f) noexcept nogil:
    if trail_wanted(w) or (w.trail == TRAIL_AUTO and f.p.trails):
        trail_start(w, f)


cdef void trail_begin(flow *f) noexcept nogil:
    if f.trail_epoch != f.f.epoch:
        f.trail_epoch, f.told_ts = f.f.epoch, f.f.tsval
        f.trail_ack, f.trail_edge = f.f.rcv_ack, f.f.rcv_edge


cdef inline bint is_shared(const flow *f) noexcept nogil:
    return f.trail_both == f.f.epoch


cdef void trail_note(worker *w, flow *f, bint asked) noexcept nogil:
    cdef bint acks = is_shared(f)
    if f.bits & F_TRAIL_DUE or f.f.state != ST_ENGAGED:
        return
    if asked or f.f.snd_nxt != f.trail_seq or (acks and (f.f.rcv_ack != f.trail_ack or f.f.rcv_edge != f.trail_edge)):
        f.bits |= F_TRAIL_DUE
        f.trail_next = w.trail_due
        w.trail_due = f


cdef void trail_flush(worker *w) noexcept nogil:
    cdef flow *f
    while w.trail_due != NULL:
        f = w.trail_due
        w.trail_due = f.trail_next
        f.bits &= ~<uint16_t>F_TRAIL_DUE
        if f.f.state == ST_ENGAGED and f.bits & (F_TRAIL | F_FORGET) == F_TRAIL:
            f.trail_seq = f.f.snd_nxt
            if is_shared(f):
                f.trail_ack, f.trail_edge = f.f.rcv_ack, f.f.rcv_edge
            w.n.trail_segments += 1
            wire_trail(w, f, f.f.snd_nxt, 0)


cdef void trail_end(worker *w, flow *f) noexcept nogil:
    if f.bits & F_TRAIL and f.f.state == ST_ENGAGED and f.bits & F_TWIN and twin_finished(&f.active.t):
        w.n.trail_segments += 1
        wire_trail(w, f, f.f.snd_nxt + 1, FLAG_RST)
