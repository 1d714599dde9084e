# Associations of a bare transport: how they begin, what arrives, what time brings, how they end. No socket,
# no clock.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.transports.bare_state cimport Bare, BareAssociation
from hooker.transports.contract cimport PeerAddress, down_reason
from hooker.vtl.api cimport vtl_addr

# A datagram from the network. Its bytes are the sink's until settle().
cdef void bare_hear(Bare *t, const vtl_addr *from_, const uint8_t *p, uint32_t n, uint64_t now) noexcept nogil
# An ICMP error, with the beginning of the datagram it is about.
cdef void bare_refused(Bare *t, const vtl_addr *to, const uint8_t *p, uint32_t n, uint64_t now) noexcept nogil
# A datagram was too large for a link: one on the way, which quotes it, or our own (n is 0). `mtu`: bytes;
# 0: not said.
cdef void bare_too_large(Bare *t, const vtl_addr *to, const uint8_t *p, uint32_t n, uint32_t mtu,
                         uint64_t now) noexcept nogil
cdef void bare_on_time(Bare *t, uint64_t now) noexcept nogil
# NULL: no memory
cdef BareAssociation *bare_connect(Bare *t, const PeerAddress *to, uint64_t now) noexcept nogil
cdef void bare_end(BareAssociation *a, down_reason why) noexcept nogil          # the peer is told
cdef void bare_fail(BareAssociation *a, down_reason why) noexcept nogil         # it is not
cdef void bare_buried(Bare *t) noexcept nogil       # assoc_down() of those that are dead, and have said all
cdef void bare_ready(BareAssociation *a) noexcept nogil                 # it has something to send
cdef void bare_use_changed(BareAssociation *a) noexcept nogil
cdef void bare_free(Bare *t) noexcept nogil         # all of them, without a word
