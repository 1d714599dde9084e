# Where associations come from, and what is held for each such source: an IPv4 address, or an IPv6 /64.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.includes.bucket cimport Bucket
from hooker.transports.contract cimport Association, PeerAddress

cdef enum:
    FAIR_SOURCES = 256         # that share at least

cdef struct Source:
    uint8_t prefix[16]
    Source *next               # of its chain
    uint32_t assocs
    uint32_t strangers         # of these, associations that have proven nothing yet
    uint64_t held              # bytes, of SourceTable.budget
    uint64_t taken[3]          # by take_kind

cdef struct SourceTable:
    uint64_t key[2]
    Source *chains[256]
    uint32_t n
    uint64_t budget            # bytes
    uint64_t held
    Bucket rooms               # that may be made for associations beyond the most

# Since when (ns) one that a peer has begun is up and unused; 0: it is not
ctypedef uint64_t (*unused_since)(const Association *a) noexcept nogil

cdef void sources_init(SourceTable *t, uint64_t budget) noexcept nogil
# One association more, or fewer. NULL: no memory.
cdef Source *source_join(SourceTable *t, const PeerAddress *peer) noexcept nogil
cdef void source_leave(SourceTable *t, Source *s) noexcept nogil
# Whether there are any of that address's
cdef bint source_known(const SourceTable *t, const PeerAddress *peer) noexcept nogil
# Whether it may hold n bytes more, which it then does. source_give() takes them back.
cdef bint source_hold(SourceTable *t, Source *s, uint64_t n) noexcept nogil
cdef void source_give(SourceTable *t, Source *s, uint64_t n) noexcept nogil
# Whether room may be made for one more now: each costs a search, and what has ended keeps its slot until
# the next flush().
cdef bint may_make_room(SourceTable *t, uint64_t now) noexcept nogil
# The one that is to make room; NULL: all are of use.
cdef Association *longest_unused(Association **slots, uint32_t top, unused_since since) noexcept nogil
