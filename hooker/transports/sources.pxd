# Where associations come from, and what is held for each such source: an IPv4 address, or an IPv6 /64.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.transports.contract cimport PeerAddress

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

cdef void sources_init(SourceTable *t, uint64_t budget) noexcept nogil
# One association more, or fewer. NULL: no memory.
cdef Source *source_join(SourceTable *t, const PeerAddress *peer) noexcept nogil
cdef void source_leave(SourceTable *t, Source *s) noexcept nogil
# Whether it may hold n bytes more, which it then does. source_give() takes them back.
cdef bint source_hold(SourceTable *t, Source *s, uint64_t n) noexcept nogil
cdef void source_give(SourceTable *t, Source *s, uint64_t n) noexcept nogil
