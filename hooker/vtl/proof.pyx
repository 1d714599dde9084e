"""Proofs that a side has seen the handshake of the TCP connection a stream stands for.

Both sides know a key of 16 bytes, made of what the handshake showed to its two ends only. It never travels. OPEN
carries a locator, a hash that names the key to who knows it, and a proof; OPEN_ACK a proof of its own. A proof is good for one
association, one stream and one role, so there is nothing in it to replay.
"""

from libc.string cimport memcpy, memset
from hooker.includes.siphash cimport siphash24
from hooker.vtl.wire cimport store32, store64

cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t)

cdef enum:
    MESSAGE = 24               # bytes: role, flags, 0, stream id, initiator's and responder's connection id


cdef void proof_key(uint64_t *out, const uint8_t *key) noexcept nogil:
    memcpy(out, key, 16)
    out[0] = le64toh(out[0])
    out[1] = le64toh(out[1])


cdef uint64_t proof_locator(const uint64_t *key) noexcept nogil:
    cdef uint8_t m[MESSAGE]
    memset(m, 0, sizeof(m))    # role 0: nobody's proof
    return siphash24(key, m, sizeof(m))


cdef uint64_t proof_of(const Assoc *a, const uint64_t *key, uint8_t role, uint8_t flags, uint32_t id) noexcept nogil:
    cdef uint8_t m[MESSAGE]
    m[0] = role
    m[1] = flags
    m[2] = m[3] = 0
    store32(m + 4, id)
    store64(m + 8, a.cid if a.initiator else a.peer_cid)
    store64(m + 16, a.peer_cid if a.initiator else a.cid)
    return siphash24(key, m, sizeof(m))
