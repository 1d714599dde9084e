from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.api cimport vtl_addr, vtl_batch
from hooker.vtl.core cimport Assoc

# False: the batch is full, there may be more
cdef bint packets_build(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil
# A datagram of `size` bytes with one PATH frame, to any address; its size, or 0: no memory
cdef uint32_t build_path_frame(Assoc *a, vtl_batch *b, const vtl_addr *to, uint8_t type, uint64_t data,
                               uint32_t size, bint ping, uint64_t now) noexcept nogil
# PING and PADDING in a datagram of that size, to find out whether the path carries it; False: no memory
cdef bint build_mtu_probe(Assoc *a, vtl_batch *b, uint32_t size, uint64_t now) noexcept nogil
cdef void build_init(Assoc *a, vtl_batch *b) noexcept nogil      # INIT, or the INIT_ACK that answers one
