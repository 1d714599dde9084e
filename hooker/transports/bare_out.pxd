# What a bare transport has to send, as datagrams.

from libc.stdint cimport uint64_t
from hooker.transports.bare_state cimport Bare
from hooker.vtl.api cimport vtl_batch

# Fills an empty batch. Borrowed bytes stay in it until shared_release().
cdef void bare_build(Bare *t, vtl_batch *b, uint64_t now) noexcept nogil
