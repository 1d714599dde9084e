"""Proof that an engine has seen a connection's handshake (docs/flow.md, 6)."""

from libc.string cimport memcpy, memset
from hooker.flow.messages cimport MAX_CONTROL, PROOF_SIZE, write_message
from hooker.flow.messages import MessageError, decode, encode
from hooker.includes.bytes cimport load64, store32, store64
from hooker.vtl.aead cimport hmac_sha256, same_bytes, wipe

cdef enum:
    BOTH_NONCES = 1             # kinds of key: no key of one kind is one of the other
    ONE_NONCE = 2
    BEFORE_PROOF = 24           # bytes of OPEN and ACCEPT
    DIGEST = 32


cdef void flow_key(const Handshake *h, uint8_t *key) noexcept nogil:
    memset(key, 0, FLOW_KEY_SIZE)
    key[0] = BOTH_NONCES if h.server_nonce else ONE_NONCE
    key[1] = 16
    store64(key + 2, h.client_nonce)
    if h.server_nonce:
        store64(key + 10, h.server_nonce)
    else:
        store32(key + 10, h.client_isn)
        store32(key + 14, h.server_isn)


cdef uint64_t flow_locator(const uint8_t *key) noexcept nogil:
    cdef uint8_t digest[DIGEST]
    hmac_sha256(key, FLOW_KEY_SIZE, b"flow locator", 12, digest)
    return load64(digest) or 1


cdef bint digest_of(const uint8_t *key, proof_role role, const uint8_t *binding, size_t binding_n, const Message *m,
                    uint8_t *digest) noexcept nogil:
    cdef uint8_t text[3 + MAX_BINDING + BEFORE_PROOF]
    cdef uint8_t wire[MAX_CONTROL]
    if binding_n > MAX_BINDING:
        return False
    write_message(wire, m)
    text[0] = b"F"                              # nothing else that is keyed with K begins so
    text[1] = role
    text[2] = <uint8_t>binding_n
    if binding_n > 0:
        memcpy(text + 3, binding, binding_n)
    memcpy(text + 3 + binding_n, wire, BEFORE_PROOF)
    hmac_sha256(key, FLOW_KEY_SIZE, text, 3 + binding_n + BEFORE_PROOF, digest)
    return True


cdef bint prove(const uint8_t *key, proof_role role, const uint8_t *binding, size_t binding_n,
                Message *m) noexcept nogil:
    cdef uint8_t digest[DIGEST]
    if not digest_of(key, role, binding, binding_n, m, digest):
        return False
    memcpy(m.proof, digest, PROOF_SIZE)
    wipe(digest, DIGEST)
    return True


cdef bint proven(const uint8_t *key, proof_role role, const uint8_t *binding, size_t binding_n,
                 const Message *m) noexcept nogil:
    cdef uint8_t digest[DIGEST]
    cdef bint right
    if not digest_of(key, role, binding, binding_n, m, digest):
        return False
    right = same_bytes(digest, m.proof, PROOF_SIZE)
    wipe(digest, DIGEST)
    return right


# ---- Python's face ----------------------------------------------------------------------------

cdef class HandshakeProof:
    """What the two ends of one connection know, and nobody who has not seen its handshake does.

    Nonces are those of the TCP option (64 bits; server's 0: the SYN-ACK had none), ISNs the initial sequence numbers.
    """

    cdef uint8_t key[FLOW_KEY_SIZE]

    def __init__(self, *, uint64_t client_nonce, uint64_t server_nonce, uint32_t client_isn, uint32_t server_isn):
        cdef Handshake h
        h.client_nonce, h.server_nonce = client_nonce, server_nonce
        h.client_isn, h.server_isn = client_isn, server_isn
        flow_key(&h, self.key)

    @property
    def locator(self) -> int:
        """Names the flow in OPEN; says nothing about the key."""
        return flow_locator(self.key)

    def sign(self, str kind not None, *, int epoch, uint64_t token, uint64_t own_token,
             bytes binding not None, uint8_t flags=0) -> bytes:
        """An OPEN or ACCEPT with its proof. `binding`: at most 64 bytes that both ends of the association know."""
        cdef Message m
        memset(&m, 0, sizeof(m))
        wire = encode(kind, epoch=epoch, flags=flags, token=token, own_token=own_token)
        m.type, m.flags, m.epoch, m.token, m.own_token = wire[0], flags, epoch, token, own_token
        if kind not in ("open", "accept") or not prove(self.key, role_of(kind), binding, len(binding), &m):
            raise MessageError("only open and accept have a proof, and a binding has at most 64 bytes")
        proof = bytes(m.proof[:PROOF_SIZE])
        return encode(kind, epoch=epoch, flags=flags, token=token, own_token=own_token, proof=proof)

    def check(self, bytes message not None, bytes binding not None) -> bool:
        """Whether an OPEN or ACCEPT comes from an engine that knows the handshake, made for this association."""
        cdef Message m
        memset(&m, 0, sizeof(m))
        fields = decode(message)
        if fields["kind"] not in ("open", "accept"):
            return False
        m.type, m.flags, m.epoch, m.position = message[0], fields["flags"], fields["epoch"], fields["position"]
        m.token, m.own_token = fields["token"], fields["own_token"]
        memcpy(m.proof, <const uint8_t *>(<bytes>fields["proof"]), PROOF_SIZE)
        return proven(self.key, role_of(fields["kind"]), binding, len(binding), &m)


cdef proof_role role_of(str kind):
    return PROOF_OPEN if kind == "open" else PROOF_ACCEPT
