# The process in which a user's class runs, as the engine sees it: one end of a SOCK_SEQPACKET pair.
#
# One packet is a head of HEAD bytes (what it is, then whom it is about: port and address of 16 bytes), and
# what belongs to it. Nothing that comes from there is believed; what it owes has a time.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.includes.linux cimport iovec
from hooker.transports.contract cimport PeerAddress

cdef enum:
    HEAD = 20
    PACKET = 256 << 10         # bytes of one, at most
    TEXT = 256                 # bytes of what it says of its failure

cdef enum child_word:          # what a packet is; hooker/prototype/link.py has the same
    # from the engine
    SAY_OPEN = 1               # port: on this one
    SAY_SEND = 2               # to a peer: frames
    SAY_CONNECT = 3            # a peer is wanted
    SAY_CLOSE = 4              # a peer is wanted no more
    # from the child
    TOLD_READY = 16            # it is loaded: what it is, as JSON
    TOLD_OPEN = 17             # port: this one; 0: the body is an errno of 32 bits
    TOLD_FRAMES = 18           # from a peer
    TOLD_UP = 19               # a peer; a byte: whether losses are repaired; the name of the function
    TOLD_DOWN = 20             # a peer; the body is a byte: down_reason
    TOLD_BEAT = 21             # it runs
    TOLD_HOLE = 23             # from a peer: bytes of 32 bits, then the head of their DATA
    TOLD_FAILED = 22           # why, as text: it ends


cdef struct Child:
    int fd                     # -1: it is gone
    bint failed
    bint blocked               # its socket is full
    uint64_t heard             # ns
    uint64_t suspected         # since when it owes a beat; 0: it does not
    uint8_t *unsent            # a packet that its socket had no room for
    uint32_t unsent_n
    uint8_t *rx                # PACKET bytes
    uint64_t sent, received, bytes_sent, bytes_received
    char text[256]             # TEXT: why it has failed

cdef int child_init(Child *c) noexcept nogil                   # 0, or -1: no memory
cdef void child_free(Child *c) noexcept nogil
cdef void child_begin(Child *c, int fd, uint64_t now) noexcept nogil           # fd is taken over
cdef void child_end(Child *c) noexcept nogil                   # it is killed, as soon as that is noticed
cdef void child_fail(Child *c, const char *why, uint32_t n) noexcept nogil     # the first reason is kept
# A packet: its head, and these parts. False: it has failed, or is blocked; then the packet is kept.
cdef bint child_say(Child *c, child_word what, const PeerAddress *about, iovec *parts,
                    uint32_t n) noexcept nogil
cdef bint child_say_rest(Child *c) noexcept nogil              # the packet that was kept; whether it has gone
# Bytes of the next packet in `rx`, at least HEAD; 0: none, or it has failed.
cdef uint32_t child_hear(Child *c, uint64_t now) noexcept nogil
cdef void child_about(const Child *c, PeerAddress *out) noexcept nogil         # of that packet
cdef int child_open(Child *c, uint16_t port, uint16_t *bound) noexcept nogil   # waits; 0, or -errno
cdef uint64_t child_due(const Child *c) noexcept nogil         # ns
cdef void child_judge(Child *c, uint64_t now) noexcept nogil   # fails it if it has stood still for too long
