# One stream out of two sources, for a flow whose sender is the engine: messages that were redirected, and
# what the local TCP has. docs/flow.md, 8.7. Positions of the local TCP are its own, those towards the peer
# are the sender's. Bytes are borrowed, as by hooker/flow/sender.pxd, whose pool it is.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.flow.machine cimport after
from hooker.flow.sender cimport SN_FIN, Sender, SenderPool, sender_done, sender_word

cdef enum:
    MOST_PARTS = 4096          # segments that are kept

cdef enum joined_bit:
    J_SERIAL = 1 << 0          # serial_in is the peer's
    J_FIN = 1 << 1             # the local TCP has sent its FIN
    J_FIN_TAKEN = 1 << 2       # and all that comes before it is here
    J_OVER = 1 << 3            # nothing is sent any more
    J_LOST = 1 << 4            # bytes that nobody sends again could not be taken: it has to end with an error
    J_OWN = 1 << 5             # the peer has acknowledged all that lies before `base`

cdef enum joined_got:          # of the local TCP's bytes
    GOT_NOT                    # it sends them again, unless J_LOST
    GOT_KEPT                   # redirected ones that stand before them are not here
    GOT_ALL

cdef struct Turns:             # what the kernel program says of a socket. To be read in this order
    uint64_t spill_at          # so many redirected bytes come before what TCP has got last
    bint redirects             # it does so now
    uint64_t redirected        # bytes, ever

cdef struct Part:              # of the local TCP's stream
    Part *next
    void *owner
    const uint8_t *data
    uint32_t n

cdef struct Joined:
    Sender s
    uint64_t received          # redirected bytes
    uint32_t base              # of the local TCP's stream: its bytes from here on are the sender's
    uint32_t taken             # up to here the sender has them
    uint32_t heard             # and up to here they are here, as parts
    uint32_t parts
    Part *first
    Part *last
    uint16_t serial_in         # of the peer's ACKEDs
    uint8_t bits               # joined_bit

# `position`, of the first byte, is the local TCP's and the peer's; the rest as of sender_init().
cdef void joined_init(Joined *j, const SenderPool *m, uint32_t position, uint32_t edge,
                      uint64_t rtt) noexcept nogil
cdef void joined_end(Joined *j, SenderPool *m) noexcept nogil       # gives all bytes back; again: nothing
# The next of what was redirected. False: it is not borrowed, and the flow is lost.
cdef bint joined_frame(Joined *j, SenderPool *m, const uint8_t *data, uint32_t n, void *owner) noexcept nogil
cdef void joined_missed(Joined *j, uint32_t n) noexcept nogil       # it could not be kept
# Whether a segment of the local TCP, from `at` on, has no hole before it; below `heard` it is known then.
cdef bint joined_follows(const Joined *j, uint32_t at) noexcept nogil
# Its bytes from `heard` on. GOT_NOT: they are not borrowed.
cdef joined_got joined_take(Joined *j, SenderPool *m, const Turns *t, const uint8_t *data, uint32_t n,
                            void *owner) noexcept nogil
cdef void joined_fin(Joined *j, uint32_t end) noexcept nogil        # the local TCP's, behind that position
# The first of the parts, if it has its turn: the sender has it now, and the caller frees it. NULL: none.
cdef Part *joined_meet(Joined *j, SenderPool *m, const Turns *t) noexcept nogil
cdef void joined_settle(Joined *j, const Turns *t) noexcept nogil   # then FIN, if it has its turn
cdef sender_word joined_acked(Joined *j, SenderPool *m, uint32_t position, uint32_t edge, uint16_t serial,
                              uint64_t now) noexcept nogil
# Bytes from `at` on that stay the local TCP's: below the base, and not acknowledged by the peer (`una`).
cdef uint32_t joined_below(Joined *j, uint32_t at, uint32_t n, uint32_t una) noexcept nogil
# What the local TCP may be told is acknowledged, and its window's end, having been `edge`.
cdef uint32_t joined_ack(Joined *j, uint32_t una) noexcept nogil
cdef uint64_t joined_edge(uint64_t taken, uint64_t edge, uint64_t room) noexcept nogil
# Bytes that may be redirected beyond those consumed. `room`: in the share of its peer.
cdef uint64_t joined_credit(const Joined *j, const SenderPool *m, bint room) noexcept nogil

cdef inline bint joined_all(const Joined *j, const Turns *t) noexcept nogil:
    """All that was ever redirected is here."""
    return t.redirected == j.received

cdef inline uint64_t joined_queued(const Joined *j) noexcept nogil:
    """Bytes that the peer's kernel has not acknowledged."""
    return j.s.queue.end - j.s.queue.acked

cdef inline uint64_t joined_consumed(const Joined *j) noexcept nogil:
    """Redirected bytes that need no credit any more."""
    return j.received - joined_queued(j) if j.received > joined_queued(j) else 0

cdef inline bint joined_lives(const Joined *j) noexcept nogil:
    """It has bytes yet, or a FIN, whatever has become of the socket."""
    if j.bits & J_OVER or sender_done(&j.s):
        return False
    return joined_queued(j) != 0 or j.s.bits & SN_FIN
