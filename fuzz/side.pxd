# One endpoint and a careless application on it, without Python: what both VTL targets drive.
#
# The bytes of a flow are a function of their place, so any byte can be checked without keeping any.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.api cimport *
from fuzz.input cimport Input

cdef enum:
    MAX_FLOWS = 24             # of one side, each kind
    PATTERN = 1 << 16          # bytes after which the pattern begins again
    MAX_WRITE = 1 << 16
    MAX_CHANNELS = 8           # of one side at a time
    MAX_ECHOES = 40            # control messages answered by one side

# Channels: opened, filled and closed like flows, but nobody at the other end has to agree. A block's id and position say
# what its bytes are.

cdef enum reflex:              # what the application does inside a callback
    R_ACCEPT = 1               # in opened()
    R_CONFIRM = 2              # in accepted()
    R_CONSUME = 4              # in data(); in block(): a report is due
    R_RESET = 8                # in data(), now and then; in channel_down(): close
    R_FIN = 16                 # in fin()
    R_WRITE = 32               # in acked(); in message(): the same back


cdef struct Flow:
    vtl_stream *s              # NULL: slot not in use, or closed
    bint used, local, answered, accepted, confirmed, rejected, cancelled
    bint fin_in, reset_in, closed, fin_out
    bint ended                 # not by FINs: reset, rejected, cancelled, at either end
    uint32_t nonce
    uint64_t written, received, unconsumed, acked, released
    uint64_t wasted            # bytes written after the end: given back at once


cdef struct Chan:              # a place for one channel after the other
    vtl_channel *c             # NULL: closed
    bint down
    uint32_t id                # of its blocks
    uint32_t position
    uint64_t lent, released    # bytes


cdef struct Side:
    vtl_endpoint *ep
    vtl_config cfg
    vtl_batch batch
    vtl_addr addr
    Flow own[MAX_FLOWS]        # those it opened
    Flow theirs[MAX_FLOWS]
    Chan channel[MAX_CHANNELS]
    uint32_t opened, channels  # so far
    uint32_t echoes
    uint32_t reflexes
    uint32_t calls             # of data(), for R_RESET
    bint honest                # the peer is a Side, so its bytes are known
    uint32_t ups, downs        # of associations
    uint64_t random


cdef void fail(const char *what) noexcept nogil
cdef const char *failure() noexcept nogil
cdef void forget_failure() noexcept nogil

cdef bint side_init(Side *k, uint64_t seed, Input *i) noexcept nogil
cdef void side_free(Side *k) noexcept nogil
cdef void side_act(Side *k, Input *i, const vtl_addr *peer, uint64_t now) noexcept nogil
cdef void side_finish(Side *k) noexcept nogil             # answers, ends and consumes whatever there is
cdef uint32_t side_open_flows(const Side *k) noexcept nogil      # and channels of an association that is not down
cdef void side_check(const Side *k) noexcept nogil        # of a side whose flows are all closed
cdef bint side_build(Side *k, uint64_t now) noexcept nogil    # into k.batch; False: nothing to send
cdef uint32_t datagram_copy(const Side *k, uint32_t i, uint8_t *out) noexcept nogil
