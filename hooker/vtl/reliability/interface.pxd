# Reliability functions: what is sent again, what is accepted, when something is given up. The interface.
#
# A function decides and does nothing itself: packet numbers come in, answers go out. Both sides of an
# association run the same one, as the handshake has settled (docs/vtl.md, 2.5). What is NULL is not asked.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    MANY = 255                 # repetitions, or more: no limit

cdef enum limit:               # which of them a function looks at
    LIMIT_WINDOW = 1
    LIMIT_REPEATS = 2
    LIMIT_DEADLINE = 4


cdef struct Limits:            # of what it may do, as the host chose them
    uint32_t window            # packets on their way; 0: the function's own
    uint32_t repeats           # how often a lost block is sent again
    uint64_t deadline          # ns after a block has left for the first time; 0: none


cdef struct Reliability:       # of one association
    const reliability_ops *ops
    bint plain                 # there is nothing to ask it while packets are built
    Limits limits
    bint answer_due            # the next datagram has an answer
    uint64_t state[8]          # the function's own


cdef struct Rewind:            # what an answer of the receiver's means
    uint64_t first             # ordered packets from here on go again; 0: none
    uint64_t arrived           # those below were lost; this one and others arrived in vain


cdef struct reliability_ops:
    char name[24]
    uint8_t code               # in the handshake
    uint8_t limits             # limit
    bint repairs               # what is lost is sent again
    bint fec                   # REPAIR is sent, and looked at
    bint once                  # a block is given back as it leaves, one a datagram; no window, no pacing
    uint8_t probes             # datagrams that a probe timeout sends, RFC 9002 6.2.4
    uint8_t ack_every          # ack-eliciting packets, RFC 9000 13.2.2
    uint32_t quiet             # frames that elicit no ACK, a bit for each type
    # the sender; may_send: as far as the function goes, one more packet may leave beside so many
    bint (*may_send)(const Reliability *r, uint32_t outstanding) noexcept nogil
    # Ordered packets have a frame of `head` bytes before all others but ACK.
    uint8_t head
    void (*write_head)(Reliability *r, uint64_t pn, uint8_t *out) noexcept nogil
    # One of them is lost: from which one on all go again; 0: it alone.
    uint64_t (*on_lost)(Reliability *r, uint64_t pn) noexcept nogil
    # All that are on their way go again, and may still arrive. NULL: a timeout repeats the oldest packet.
    void (*rewind)(Reliability *r) noexcept nogil
    # False: it cannot be
    bint (*on_answer)(Reliability *r, const uint8_t *frame, uint64_t next_pn, Rewind *out) noexcept nogil
    # A block is lost that was sent again so often, and for the first time so many ns ago: no more of it.
    bint (*gives_up)(const Reliability *r, uint32_t repeats, uint64_t age) noexcept nogil
    # the receiver; False: dropped, not acknowledged, and an answer is due
    bint (*accepts)(Reliability *r, const uint8_t *head, uint64_t pn) noexcept nogil
    void (*accepted)(Reliability *r, uint64_t pn) noexcept nogil    # nothing else was wrong with it
    uint8_t answer             # bytes of an answer
    void (*write_answer)(Reliability *r, uint8_t *out) noexcept nogil
    void (*release)(Reliability *r) noexcept nogil         # the association ends, or has another function


cdef enum:
    MAX_FUNCTIONS = 16
    ACCEPTABLE = 32            # codes that vtl_config.accepts can name

cdef const reliability_ops *reliability_find(const char *name) noexcept nogil    # "": code 0; NULL: unknown
cdef const reliability_ops *reliability_of(uint8_t code) noexcept nogil          # NULL: unknown
cdef void reliability_use(Reliability *r, const reliability_ops *ops, const Limits *limits) noexcept nogil
cdef void reliability_end(Reliability *r) noexcept nogil
# its name is free again; associations that have it keep it
cdef void reliability_remove(const reliability_ops *ops) noexcept nogil
# names it, and registers it
cdef int reliability_fill(reliability_ops *ops, bytes name, uint8_t code) except -1

cdef inline bint reliability_may_send(const Reliability *r, uint32_t outstanding) noexcept nogil:
    return r.ops.may_send == NULL or r.ops.may_send(r, outstanding)
