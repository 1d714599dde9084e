# The bytes of a pinned flow whose sender is the engine: kept until the peer's kernel has acknowledged them. docs/flow.md, 8.7.
# Positions are the flow protocol's, modulo 2^32; offsets count the bytes written, and never wrap. Times are nanoseconds of
# any clock. Bytes are borrowed, and given back in the order in which they were written.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.sendbuf cimport SendBuf, release_fn

cdef enum:
    RECORD_COST = 32            # bytes that a write takes beside its own, unless it continues the one before it
    MOST_QUEUED = 1 << 29       # bytes in the queue: no position of theirs is far from another

cdef extern from * nogil:
    """
    #define HK_SENDER_START ((uint64_t)1 << 32)
    """
    const uint64_t START "HK_SENDER_START"      # the offset of the first byte: there are positions before it

cdef enum sender_bit:
    SN_FIN = 1 << 0             # the last byte is written
    SN_FIN_SENT = 1 << 1
    SN_FIN_AGAIN = 1 << 2       # and is to be sent once more
    SN_FIN_ACKED = 1 << 3
    SN_RECOVERS = 1 << 4        # RFC 6582: until all that was under way when a loss was found is acknowledged
    SN_TIMED_OUT = 1 << 5       # and it was found by the timer: all of that may be lost

cdef enum sender_due:           # what the timer asks for
    DUE_NOTHING                 # it is not due
    DUE_BYTES                   # sender_next() has some to be sent again
    DUE_PROBE                   # PROBE: only the far kernel knows
    DUE_END                     # tried so often that TCP would give up

cdef enum sender_word:          # what an ACKED was
    ACKED_NOT                   # of bytes that were not sent, or older than one that was here: nothing is believed
    ACKED_SAME                  # no new bytes; the window may be another
    ACKED_MORE

cdef struct SenderConfig:       # one for an engine and class of transport, which must have its own congestion control
    uint64_t first_rto          # RFC 6298 2.1
    uint64_t least_rto          # 2.4
    uint64_t longest_rto        # 2.5
    uint64_t granularity        # of the clock
    uint64_t least_credit       # bytes that may be queued: of a flow that has not shown what it needs,
    uint64_t most_credit        # of any flow,
    uint64_t floor_credit       # and whatever the budget says
    uint64_t budget             # of all flows together, bytes and records
    uint32_t segment            # bytes of a DATA at most
    uint8_t tries               # timeouts without progress, or probes without an answer, until it is given up
    bint repairs                # the transport sends again what it loses

cdef struct SenderPool:         # one for an engine
    SenderConfig c
    uint64_t held               # of the budget in use
    release_fn release          # gives bytes back to their owner
    void *ctx                   # its first argument

cdef struct Sender:
    SendBuf queue               # `acked`, `next` and `end` are its offsets
    uint32_t base               # position of the first byte
    uint32_t taken_records      # RECORD_COST each
    uint64_t edge               # offset that may not be used any more
    uint64_t widest             # the largest window there was, bytes
    uint64_t recover            # SN_RECOVERS ends when it is acknowledged
    uint64_t again_to           # what is below was sent again since it began (HighRxt of RFC 6675)
    uint64_t refused_from       # the lowest offset that was refused lately,
    uint64_t refused_at         # and when what is behind it was last sent again; 0: never
    uint64_t refused_due        # it was refused once more, and is sent again then; UINT64_MAX: not
    uint64_t timed_to           # the round trip of this offset's byte is measured; 0: of none
    uint64_t timed_at
    uint64_t round_to           # credit: a round ends when it is acknowledged
    uint64_t round_from
    uint64_t most_in_round      # bytes acknowledged in one, of late
    uint64_t path_rtt           # as good as any until one was measured
    uint64_t srtt               # 0: not known
    uint64_t rttvar
    uint64_t rto                # not backed off
    uint64_t due                # of the bytes under way, or a closed window; UINT64_MAX: never
    uint8_t bits                # sender_bit
    uint8_t tries               # timeouts that nothing has answered
    uint8_t backoff             # and since a round trip was measured
    uint8_t refusals            # in a row

cdef struct Piece:              # one DATA
    uint64_t offset
    uint32_t position
    uint32_t n                  # bytes; 0: FIN alone
    const uint8_t *data
    void *owner                 # the writer's
    uint8_t flags               # DATA_FIN, DATA_PSH
    bint again

cdef void sender_defaults(SenderConfig *c) noexcept nogil
# The first byte written has that position; `edge` is the peer's window's; `rtt` the transport's, as far as it is known.
cdef void sender_init(Sender *s, const SenderConfig *c, uint32_t position, uint32_t edge, uint64_t rtt) noexcept nogil
cdef void sender_free(Sender *s, SenderPool *m) noexcept nogil       # gives all bytes back; sends nothing more
# 0, or -1: no memory, MOST_QUEUED, or behind FIN. Then the bytes are not borrowed.
cdef int sender_write(Sender *s, SenderPool *m, const uint8_t *data, size_t n, void *owner) noexcept nogil
cdef void sender_fin(Sender *s) noexcept nogil
# What may be sent now; False: nothing. Told of by sender_sent() once the transport has taken it; what was not taken comes
# again. To be called after anything else was, and when the transport takes messages again.
cdef bint sender_next(Sender *s, const SenderConfig *c, uint64_t now, Piece *p) noexcept nogil
cdef void sender_sent(Sender *s, const SenderConfig *c, const Piece *p, uint64_t now) noexcept nogil
# Of an ACKED whose serial was found to be newer (4.2). `sack`: left and right edge of each block.
cdef sender_word sender_acked(Sender *s, SenderPool *m, uint32_t position, uint32_t edge, uint8_t duplicates,
                              const uint32_t *sack, uint32_t blocks, uint64_t now) noexcept nogil
cdef void sender_refused(Sender *s, uint32_t position, uint64_t now) noexcept nogil
cdef sender_due sender_timer(Sender *s, const SenderConfig *c, uint64_t now) noexcept nogil
# How many bytes may be written beyond those acknowledged. It moves with everything that happens.
cdef uint64_t sender_credit(const Sender *s, const SenderPool *m) noexcept nogil

cdef inline uint64_t sender_deadline(const Sender *s) noexcept nogil:
    return min(s.due, s.refused_due)

cdef inline uint64_t sender_acknowledged(const Sender *s) noexcept nogil:
    """Bytes that the writer has back."""
    return s.queue.acked - START

cdef inline bint sender_done(const Sender *s) noexcept nogil:
    return s.bits & SN_FIN_ACKED

cdef inline uint32_t sender_position(const Sender *s) noexcept nogil:
    """Behind the last byte sent, and FIN: the flow's snd_nxt."""
    return s.base + <uint32_t>(s.queue.next - START) + (1 if s.bits & SN_FIN_SENT else 0)
