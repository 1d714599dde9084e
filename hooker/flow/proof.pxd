# Who has seen the handshake (docs/flow.md, 6): a key out of it, the flow's locator, the proof in OPEN and ACCEPT.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.flow.messages cimport Message

cdef enum:
    FLOW_KEY_SIZE = 18          # a byte for the kind, a byte for its size, then at most 16
    MAX_BINDING = 64            # bytes that name the association

cdef enum proof_role:
    PROOF_OPEN = 1
    PROOF_ACCEPT = 2

cdef struct Handshake:          # of one TCP connection; numbers as in the segments
    uint64_t client_nonce
    uint64_t server_nonce       # 0: the SYN-ACK had no option
    uint32_t client_isn
    uint32_t server_isn


cdef void flow_key(const Handshake *h, uint8_t *key) noexcept nogil
cdef uint64_t flow_locator(const uint8_t *key) noexcept nogil         # never 0
# Over role, binding and the message's bytes before the proof; into m.proof. False: the binding is too long.
cdef bint prove(const uint8_t *key, proof_role role, const uint8_t *binding, size_t binding_n,
                Message *m) noexcept nogil
cdef bint proven(const uint8_t *key, proof_role role, const uint8_t *binding, size_t binding_n,
                 const Message *m) noexcept nogil
