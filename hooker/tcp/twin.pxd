# The twin: towards this host's TCP it is the remote end of one connection. docs/twin.md has the rules.
#
# `up` is the direction from the local TCP to the remote one, `down` the other. The owner of the twin tells it
# what the remote TCP has acknowledged and which window it opened, and gives it bytes for the local TCP; the
# twin tells the owner what the local TCP said, and makes segments for it. Nothing here has a descriptor, a
# clock or memory besides the struct: bytes stay with the owner.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.tcp.numbers cimport FAR, NOWHERE
from hooker.tcp.segment cimport MAX_HEADERS, MAX_SACKS, Segment

cdef enum twin_flag:
    TWIN_TIMESTAMPS = 1         # negotiated in the handshake
    TWIN_SACK = 2
    TWIN_MARKED = 4             # a timestamp waits until its bytes are acknowledged
    TWIN_PROMPT = 8             # the local TCP needs an ACK now, also one that says nothing new
    TWIN_ABORTING = 16          # a RST has been said, and the local TCP has not agreed yet
    TWIN_OVER = 32              # the local TCP has sent a RST
    TWIN_AGING = 64             # a timestamp waits until the remote TCP could have echoed it
    TWIN_REPEATED = 128         # TWIN_MARKED is of bytes that are on their way once more


cdef struct twin:
    uint64_t up_seen            # what the local TCP has sent, as far as it came here
    uint64_t up_acked           # what the remote TCP has acknowledged
    uint64_t up_edge            # up to which the remote side takes bytes
    uint64_t up_said            # the acknowledgement that the local TCP was last given
    uint64_t up_said_edge
    uint64_t up_fin             # position of the FIN, or NOWHERE
    uint64_t down_acked         # what the local TCP has acknowledged
    uint64_t down_edge          # the right edge of its window
    uint64_t down_handed        # given to it without a hole up to here
    uint64_t down_most          # the highest position given to it: our next sequence number
    uint64_t down_fin
    uint64_t deadline           # ns; NOWHERE: none
    uint32_t local_isn
    uint32_t remote_isn
    uint32_t ts_said            # the timestamp of the remote TCP that the local one knows
    uint32_t ts_echo            # the newest of the local TCP's that may be echoed to it
    uint32_t ts_back            # and the one that is: what the remote TCP would say
    uint32_t ts_newest          # of the local TCP's
    uint32_t mark_ts            # echoed once `mark_end` is acknowledged
    uint32_t mark_end           # low 32 bits of a position
    uint32_t aging_ts           # of an ACK, echoed a round trip later
    uint32_t aging_us           # since when; low 32 bits
    uint32_t away_us            # the round trip to the remote TCP, as far as its owner knows; 0: none
    uint32_t beyond_from        # given to it beyond a hole, the lowest such range; low 32 bits of positions
    uint32_t beyond_to          # the same as `beyond_from`: none
    uint8_t local[16]           # addresses, as in packets
    uint8_t remote[16]
    uint16_t local_port
    uint16_t remote_port
    uint16_t mss                # bytes of data in one segment on the wire
    uint8_t version             # 4 or 6
    uint8_t flags
    uint8_t local_wscale        # by which each shifts the windows it says
    uint8_t remote_wscale
    uint8_t backoff             # how often bytes were injected again without progress
    uint8_t repeats             # ACKs in a row that said nothing new while bytes are missing


cdef struct twin_start:         # where the connection stands when the twin begins; positions as above
    uint8_t version
    uint8_t local[16]
    uint8_t remote[16]
    uint16_t local_port
    uint16_t remote_port
    uint32_t local_isn
    uint32_t remote_isn
    uint64_t sent               # by the local TCP: its snd_nxt
    uint64_t acked              # of that, by the remote TCP
    uint64_t edge               # up to which the local TCP may send
    uint64_t received           # by the local TCP: its rcv_nxt
    uint64_t window             # bytes that it takes
    uint16_t mss
    uint8_t local_wscale        # 0 also when not negotiated
    uint8_t remote_wscale
    bint timestamps
    bint sack
    uint32_t ts_local           # the newest timestamp of each, that the other has seen
    uint32_t ts_remote
    uint32_t away_us            # the round trip to the remote TCP; 0: not known
    bint rested                 # nothing has been under way for that long


cdef enum heard_what:
    HEARD_DATA = 1              # bytes, or a FIN, that the remote TCP has not acknowledged
    HEARD_NEW = 2               # of them some are new; otherwise the local TCP repeats itself
    HEARD_FIN = 4
    HEARD_PUSH = 8
    HEARD_URGENT = 16
    HEARD_ACK = 32              # the acknowledgement has moved
    HEARD_EDGE = 64             # the window's edge has moved
    HEARD_DUPLICATE = 128       # a duplicate ACK, RFC 5681 2
    HEARD_PROBE = 256           # keepalive or zero-window probe: wants an ACK, if the far end is alive
    HEARD_STALE = 512           # bytes that are acknowledged long since: our ACK was lost
    HEARD_AHEAD = 1024          # acknowledges bytes that were not given to it here: they came by the wire
    HEARD_AGAIN = 2048          # bytes given to it are missing: see again_from, again_to
    HEARD_RESET = 4096          # a RST that belongs to the connection
    HEARD_NO_SOCKET = 8192      # with HEARD_RESET: an answer to a segment of ours that met no socket
    HEARD_CHALLENGE = 16384     # answers our RST: it was not at the right place; say it again
    HEARD_SYN = 32768           # a SYN: no business of a twin
    HEARD_TIMESTAMPS = 65536    # ts_value, ts_echo
    HEARD_DROPPED = 131072      # no part of the connection; nothing was changed


cdef struct heard:
    uint32_t what
    uint32_t length
    const uint8_t *data         # in the packet
    uint64_t position           # of the first byte
    uint64_t ack
    uint64_t edge
    uint64_t urgent             # the position behind the urgent byte
    uint64_t again_from
    uint64_t again_to
    uint64_t sack[4][2]         # MAX_SACKS
    uint32_t ts_value
    uint32_t ts_echo
    uint8_t sacks
    uint8_t flags               # of TCP, as they came
    uint8_t ecn


cdef enum delivery_flag:
    DELIVER_FIN = 1
    DELIVER_PUSH = 2
    DELIVER_URGENT = 4
    DELIVER_CE = 8              # RFC 3168: congestion experienced
    DELIVER_CWR = 16
    DELIVER_TIMESTAMP = 32


cdef struct delivery:           # bytes for the local TCP; twin_deliver() moves it on
    uint64_t position
    uint64_t urgent             # with DELIVER_URGENT: the position behind the urgent byte
    uint32_t length
    uint32_t flags
    uint32_t ts                 # with DELIVER_TIMESTAMP: what the remote TCP said with these bytes
    uint16_t segment            # bytes in which the remote TCP has sent them; 0: not known, `mss`
    const uint8_t *data


cdef struct twin_segment:       # to be written to the device: headers, then the owner's bytes
    const uint8_t *data
    uint32_t length
    uint32_t header
    uint8_t head[110]           # MAX_HEADERS


cdef struct ack_extra:          # what a transport that repairs nothing carries from kernel to kernel
    uint64_t sack[4][2]         # MAX_SACKS
    uint8_t sacks
    bint ece


cdef enum told:                 # what twin_acked() makes of it
    TOLD_NOTHING = 0
    TOLD_NEWS = 1               # the local TCP should hear it once there is nothing else to do
    TOLD_DUE = 2                # now
    TOLD_BEYOND = 3             # dropped: more than the local TCP has sent
    TOLD_FAR = 4                # dropped: not near any position that is known


# False: numbers or sizes that cannot be
cdef bint twin_init(twin *t, const twin_start *s) noexcept nogil
# Nothing is under way, and nothing is left to say: one that begins where this one stands says the same.
cdef bint twin_rests(twin *t, uint64_t now) noexcept nogil
cdef bint twin_matches(const twin *t, const Segment *s) noexcept nogil

# what the local TCP said; `s` came from the device and matches
cdef void twin_hear(twin *t, const Segment *s, uint64_t now, heard *out) noexcept nogil

# The next segment of these bytes, or False: done. What is left of `d` then, the local TCP has no room for.
cdef bint twin_deliver(twin *t, delivery *d, uint64_t now, twin_segment *out) noexcept nogil

# The remote TCP has acknowledged up to `position`, and takes bytes up to `edge` (or the owner promises to).
cdef told twin_acked(twin *t, uint64_t position, uint64_t edge) noexcept nogil
# Takes a promise back.
cdef void twin_withdraw(twin *t, uint64_t edge) noexcept nogil
# Which of the local TCP's timestamps is echoed to it, where the owner knows what the remote TCP has echoed. One
# that the local TCP has not said is not believed.
cdef void twin_echo(twin *t, uint32_t ts) noexcept nogil
# A repeated segment has been passed on: the acknowledgement of its bytes, which end before `end` (low 32 bits), echoes
# its timestamp.
cdef void twin_repeated(twin *t, uint32_t ts, uint32_t end) noexcept nogil
# A timestamp that the remote TCP sent.
cdef void twin_stamp(twin *t, uint32_t ts) noexcept nogil
# TOLD_NEWS or more, and not said yet.
cdef bint twin_wants_ack(const twin *t) noexcept nogil
# `x` may be NULL.
cdef void twin_ack(twin *t, const ack_extra *x, twin_segment *out) noexcept nogil
# Makes the local TCP say where it stands. With one old byte it is not limited in rate (Linux: one in 0.5 s), and waits for no
# bytes to go with, but then what it says reports that byte as received twice (RFC 2883).
cdef void twin_probe(const twin *t, bint byte, twin_segment *out) noexcept nogil
cdef void twin_reset(twin *t, twin_segment *out) noexcept nogil

# After the deadline: which bytes the local TCP should be given again. False: none.
cdef bint twin_expired(twin *t, uint64_t now, uint64_t *again_from, uint64_t *again_to) noexcept nogil
# Whether the remote TCP's FIN has been given, and acknowledged.
cdef bint twin_fin_taken(const twin *t) noexcept nogil
# Both FINs are acknowledged, or a RST came.
cdef bint twin_finished(const twin *t) noexcept nogil
