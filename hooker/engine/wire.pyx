"""Raw sockets, for packets that carry their headers: what hk0 got and the wire should have.

They have the engine's own mark, so neither its rule nor its programs see them. What they say for the local TCP, that has
said itself, and the timestamp on a bare segment is one that the remote TCP has echoed: a newer one might overtake data
that is still under way, which would then be dropped as old (PAWS, RFC 7323 5).

As long as the server has said nothing, any of a client's segments may be what ends its handshake. So they have the client's
option, as those that its kernel sends (bpf/marking.c): without it the connection would be TCP's for good.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.engine.cells cimport cell
from hooker.engine.hold cimport is_withheld
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ROLE_CLIENT, ST_ENGAGED, WHY_NO_PROGRESS
from hooker.flow.messages cimport DATA_FIN, DATA_PSH, DATA_URG, Message
from hooker.includes.bytes cimport load64, store16
from hooker.includes.hk cimport (
    HK_MARK_OWN, HK_OPT_EXID, HK_OPT_KIND, HK_OPT_LEN, HK_OPT_VERSION_MESSAGES, HK_OPT_VERSION_SEGMENTS, HK_ROLE_CLIENT,
    HK_ROOMY, HK_TCP_TIMESTAMPS,
)
from hooker.includes.addresses cimport fill_end, set_int
from hooker.includes.linux cimport *
from hooker.tcp.numbers cimport is_newer
from hooker.tcp.segment cimport *

cdef enum:
    IPV6_HDRINCL_ = 36
    RAW_BUFFER = 8 << 20       # bytes
    LEAST_MSS = 536
    FIRST = 1                  # the first byte's position


cdef int raw_socket(int family) noexcept nogil:
    cdef int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW)
    if fd < 0:
        return -errno
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, RAW_BUFFER)
    if family == AF_INET6:
        set_int(fd, IPPROTO_IPV6, IPV6_HDRINCL_, 1)
    return fd


cdef int wire_open(worker *w) noexcept nogil:
    w.raw4 = raw_socket(AF_INET)
    w.raw6 = raw_socket(AF_INET6)               # a host without IPv6 has no IPv6 flows
    return w.raw4 if w.raw4 < 0 else 0


cdef void wire_close(worker *w) noexcept nogil:
    if w.raw4 >= 0:
        close(w.raw4)
    if w.raw6 >= 0:
        close(w.raw6)
    w.raw4 = w.raw6 = -1


cdef bint send_packet(worker *w, const uint8_t *packet, uint32_t n) noexcept nogil:
    """To the destination in its header. What the kernel does not take, TCP repeats. False: for our link it is too large."""
    cdef sockaddr_storage to
    cdef bint v4 = packet[0] >> 4 == 4
    cdef socklen_t size = fill_end(&to, packet[0] >> 4, packet + (16 if v4 else 24), 0)
    if sendto(w.raw4 if v4 else w.raw6, packet, n, MSG_DONTWAIT, <sockaddr *>&to, size) != <ssize_t>n:
        w.n.wire_errors += 1
        return errno != EMSGSIZE
    return True


cdef bint asks(const flow *f) noexcept nogil:
    """Not of a receiver that opens a small window by full segments, as in bpf/marking.c, nor where no server has selected."""
    if f.f.role != ROLE_CLIENT or f.unproven or f.rec == NULL or f.f.snd_una != FIRST or f.f.rcv_ack != FIRST:
        return False
    return f.remote_wscale or f.granted >= HK_ROOMY * f.mss


cdef inline uint32_t path_mss(const flow *f) noexcept nogil:
    cdef uint32_t now = hk_load32(&f.rec.mss) if f.rec != NULL else 0     # the kernel program may write it meanwhile
    return now if now else f.mss if f.mss else LEAST_MSS


cdef inline uint32_t room_for(const flow *f, uint32_t mss) noexcept nogil:
    return mss - HK_OPT_LEN if asks(f) else mss


cdef void ask(const worker *w, const flow *f, Segment *s) noexcept nogil:
    """The client's option, with the transport that the server has selected."""
    cdef uint64_t nonce = load64(f.proof_key + 2)
    cdef int version
    s.options |= HAS_EXPERIMENT
    s.experiment[0], s.experiment[1] = HK_OPT_KIND, HK_OPT_LEN
    store16(s.experiment + 2, HK_OPT_EXID)
    version = HK_OPT_VERSION_SEGMENTS if w.redirects == NULL else HK_OPT_VERSION_MESSAGES
    s.experiment[4] = <uint8_t>(version << 4 | HK_ROLE_CLIENT)
    s.experiment[5] = <uint8_t>(f.rec.transport << 4)
    memcpy(s.experiment + 8, &nonce, sizeof(nonce))


cdef uint32_t packet_size(const flow *f, const Segment *s) noexcept nogil:
    """Of the path, as far as TCP has found it out: the device has no limit of its own."""
    cdef uint32_t mss = path_mss(f)
    if s.gso_size and s.gso_size < mss:
        mss = s.gso_size
    return <uint32_t>(s.data - s.ip) + mss


cdef void wire_segment(worker *w, flow *f, const Segment *s) noexcept nogil:
    cdef uint32_t size = packet_size(f, s), at = 0
    cdef uint32_t room = cut_room(s, size)
    if is_withheld(f) and (s.length or s.flags & FLAG_FIN):
        return                                  # the kernel program lets none come here; a bare header would skip it
    while True:
        send_packet(w, w.cut, segment_cut(s, at, size, w.cut))
        at += room
        if at >= s.length:
            return


cdef void wire_alone(worker *w, const Segment *s) noexcept nogil:
    """Nobody remembers its flow, but what answers for that, a TIME_WAIT, has kept the mark. It says where TCP stands, no more."""
    if s.length == 0 and not s.flags & FLAG_FIN:
        send_packet(w, w.cut, segment_cut(s, 0, <uint32_t>(s.data - s.ip), w.cut))


cdef inline uint16_t window_of(const flow *f, uint32_t ack, uint32_t edge) noexcept nogil:
    return <uint16_t>min((edge - ack) >> f.local_wscale, <uint32_t>0xFFFF)


cdef void begin(const worker *w, const flow *f, uint32_t position, uint8_t flags, Segment *s) noexcept nogil:
    memset(s, 0, sizeof(Segment))
    s.version, s.src, s.dst = f.ends.version, f.ends.local, f.ends.remote
    s.src_port, s.dst_port = f.ends.local_port, f.ends.remote_port
    s.seq, s.ack = f.local_isn + position, f.remote_isn + f.f.rcv_ack
    s.flags = FLAG_ACK | flags
    s.window = window_of(f, f.f.rcv_ack, f.f.rcv_edge)
    if f.tcp_options & HK_TCP_TIMESTAMPS:
        s.options = HAS_TIMESTAMPS
        s.ts_value, s.ts_echo = f.f.tsval, f.ts_recent
        if f.active.t.ts_echo:                 # it has been engaged
            s.ts_value = f.active.t.ts_echo
            if not f.bits & F_TRAIL and is_newer(f.told_ts, s.ts_value):
                s.ts_value = f.told_ts         # which the remote TCP may know
    if asks(f) and not flags & FLAG_RST:
        ask(w, f, s)


cdef bint wire_bytes(worker *w, flow *f, uint32_t position, const uint8_t *data, uint32_t length,
                     uint8_t flags) noexcept nogil:
    """False: for our own link they are too many. With the newest timestamp, as TCP repeats: the far TCP may know a newer
    one than was echoed here."""
    cdef Segment s
    cdef uint32_t n
    begin(w, f, position, flags, &s)
    s.ts_value = f.f.tsval
    s.data, s.length = data, length
    n = segment_build(&s, False, w.cut)
    memcpy(w.cut + n, data, length)
    w.n.segments_repeated += 1
    return send_packet(w, w.cut + VNET_HEADER, n - VNET_HEADER + length)


cdef bint wire_beginning(worker *w, flow *f, uint32_t most) noexcept nogil:
    """Of the copy that is kept."""
    cdef cell *k = f.active.kept
    if k.n > most:
        return wire_bytes(w, f, k.position, k.data, most, k.flags & ~<uint8_t>(FLAG_FIN | FLAG_PSH))
    return wire_bytes(w, f, k.position, k.data, k.n, k.flags)


cdef void wire_kept(worker *w, flow *f) noexcept nogil:
    """As much as the path takes, which may have become narrower. Where no segment has come through, it may be that: the
    acknowledgement of the first bytes lets TCP go on, and it knows the path from here."""
    if f.active.kept == NULL or is_withheld(f):
        return
    if f.f.reason == WHY_NO_PROGRESS or not wire_beginning(w, f, room_for(f, path_mss(f))):
        wire_beginning(w, f, room_for(f, LEAST_MSS))


cdef void wire_newest(worker *w, flow *f) noexcept nogil:
    """What the transport has is lost, and the local TCP does not know. Where it was told of a round trip as long as our silence
    it would wait twice that; but behind this segment the far TCP shows it the hole, by SACK."""
    cdef uint32_t most = room_for(f, path_mss(f)), cut
    cdef uint8_t flags
    cdef Message m
    if f.channel == NULL or is_withheld(f) or not f.channel.ops.newest(f.channel, &m) or m.flags & DATA_URG:
        return
    cut = m.data_n - most if m.data_n > most else 0
    if <int32_t>(m.position + cut - f.f.snd_una) < 0 or (f.active.kept != NULL and f.active.kept.position == m.position + cut):
        return
    flags = (FLAG_FIN if m.flags & DATA_FIN else 0) | (FLAG_PSH if m.flags & DATA_PSH else 0)
    wire_bytes(w, f, m.position + cut, m.data + cut, m.data_n - cut, flags)


cdef void send_bare(worker *w, Segment *s) noexcept nogil:
    cdef uint8_t packet[MAX_HEADERS]
    cdef uint32_t n = segment_build(s, False, packet)
    send_packet(w, packet + VNET_HEADER, n - VNET_HEADER)


cdef inline uint32_t acceptable(const flow *f) noexcept nogil:
    """Within the window, or it would be answered: two TCPs that have sent beyond shrunk windows would go on so for ever."""
    return f.f.peer_edge if f.f.state == ST_ENGAGED and <int32_t>(f.f.snd_nxt - f.f.peer_edge) > 0 else f.f.snd_nxt


cdef void wire_bare(worker *w, flow *f, uint8_t flags) noexcept nogil:
    cdef Segment s
    begin(w, f, acceptable(f), flags, &s)
    if f.f.state == ST_ENGAGED:
        s.ts_value = f.told_ts                  # as a trail's: what the peer's engine says next must not be older
    send_bare(w, &s)


cdef void wire_probe(worker *w, flow *f) noexcept nogil:
    """Below what is acknowledged, which a TCP answers: keepalive and zero-window probes (RFC 9293 3.8.4, 3.8.6.1)."""
    cdef Segment s
    begin(w, f, f.f.snd_una - 1, 0, &s)
    send_bare(w, &s)


cdef void wire_trail(worker *w, flow *f, uint32_t position, uint8_t flags) noexcept nogil:
    cdef Segment s
    begin(w, f, position, flags, &s)
    s.ack = f.remote_isn + f.trail_ack
    s.window = window_of(f, f.trail_ack, f.trail_edge)
    s.ts_value = f.told_ts
    send_bare(w, &s)
