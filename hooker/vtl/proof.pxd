# Who opens a stream or accepts it has seen the handshake of its TCP connection: docs/vtl.md, 4.1.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.core cimport Assoc

cdef enum proof_role:          # whose word it is
    PROOF_OPEN = 1
    PROOF_OPEN_ACK = 2

cdef void proof_key(uint64_t *out, const uint8_t *key) noexcept nogil              # as SipHash takes it
cdef uint64_t proof_locator(const uint64_t *key) noexcept nogil
cdef uint64_t proof_of(const Assoc *a, const uint64_t *key, uint8_t role, uint8_t flags, uint32_t id) noexcept nogil
