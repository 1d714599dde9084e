# Authenticated encryption, HMAC and HKDF: libcrypto's, without the GIL.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.api cimport iovec


cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER_CTX

cdef enum:
    TAG_SIZE = 16
    IV_SIZE = 12
    SECRET_SIZE = 32           # of HMAC-SHA256

cdef enum aead_cipher:         # the low byte of a version that encrypts
    AES_128_GCM = 1
    AES_256_GCM = 2
    CHACHA20_POLY1305 = 3


cdef uint32_t aead_key_size(uint32_t cipher) noexcept nogil               # bytes; 0: no such cipher
# A context for one direction, with or without an older one to use again. NULL: no memory, or no such cipher
cdef EVP_CIPHER_CTX *aead_start(EVP_CIPHER_CTX *ctx, uint32_t cipher, const uint8_t *key, bint seal) noexcept nogil
cdef void aead_free(EVP_CIPHER_CTX *ctx) noexcept nogil
# The nonce is iv XOR number (RFC 9001 5.3). seal: the parts, encrypted, and the tag. open: in place, n with the tag.
cdef bint aead_seal(EVP_CIPHER_CTX *ctx, const uint8_t *iv, uint64_t number, const uint8_t *header, uint32_t header_n,
                    const iovec *part, uint32_t parts, uint8_t *out) noexcept nogil
cdef bint aead_open(EVP_CIPHER_CTX *ctx, const uint8_t *iv, uint64_t number, const uint8_t *header, uint32_t header_n,
                    uint8_t *data, size_t n) noexcept nogil

cdef void hmac_sha256(const uint8_t *key, size_t key_n, const uint8_t *data, size_t n, uint8_t *out) noexcept nogil
# RFC 5869 with SHA-256; at most 32 bytes come out
cdef void hkdf_extract(const uint8_t *salt, size_t salt_n, const uint8_t *key, size_t key_n, uint8_t *out) noexcept nogil
cdef void hkdf_expand(const uint8_t *secret, const uint8_t *info, size_t info_n, uint8_t *out, size_t n) noexcept nogil
cdef bint same_bytes(const uint8_t *x, const uint8_t *y, size_t n) noexcept nogil     # in constant time
cdef void wipe(void *p, size_t n) noexcept nogil
cdef bint aes_is_fast() noexcept nogil                                     # this processor has instructions for AES-GCM
