from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.aead cimport TAG_SIZE
from hooker.vtl.api cimport iovec
from hooker.vtl.core cimport Assoc, Endpoint, Psk
from hooker.vtl.wire cimport Cursor, Header

# --- a pre-shared key
cdef void psk_init(Psk *p, const uint8_t *key) noexcept nogil
cdef void psk_sign(const Psk *p, const uint8_t *packet, size_t n, uint8_t *tag) noexcept nogil
# which of our keys made the tag at the cursor, over all before it; -1: none
cdef int psk_verify(const Endpoint *ep, Cursor *c, const uint8_t *packet) noexcept nogil

# --- an association's keys, from its version, pre-shared key and connection ids
cdef bint keys_install(Assoc *a) noexcept nogil                  # False: no memory
cdef void keys_free(Assoc *a) noexcept nogil
# decrypts what the cursor has, in place, without the tag then; a vtl_drop code
cdef int keys_open(Assoc *a, Cursor *c, const Header *h, uint64_t pn, uint64_t now) noexcept nogil
# before a packet is built: updates the keys when it is time; False: none may be sent any more
cdef bint keys_ready(Assoc *a) noexcept nogil
# `part` is packet pn in parts, the first with its header of so many bytes; out has room for all of it and the tag
cdef bint keys_seal(Assoc *a, uint64_t pn, iovec *part, uint32_t parts, uint32_t header, uint8_t *out) noexcept nogil

cdef inline uint32_t keys_overhead(const Assoc *a) noexcept nogil:
    return TAG_SIZE if a.keys != NULL else 0
