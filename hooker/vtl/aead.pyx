"""Authenticated encryption by libcrypto: one context for each key, set up once, a nonce for each packet."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from hooker.vtl.wire cimport load64, store64

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER
    ctypedef struct EVP_MD
    ctypedef struct ENGINE
    enum:
        EVP_CTRL_AEAD_GET_TAG
        EVP_CTRL_AEAD_SET_TAG
    const EVP_CIPHER *EVP_aes_128_gcm()
    const EVP_CIPHER *EVP_aes_256_gcm()
    const EVP_CIPHER *EVP_chacha20_poly1305()
    ctypedef struct EVP_MAC_CTX
    ctypedef struct OSSL_PARAM
    const EVP_MD *EVP_sha256()
    EVP_MAC_CTX *EVP_MAC_CTX_dup(const EVP_MAC_CTX *ctx)      # NULL of NULL
    void EVP_MAC_CTX_free(EVP_MAC_CTX *ctx)
    int EVP_MAC_init(EVP_MAC_CTX *ctx, const uint8_t *key, size_t n, const OSSL_PARAM *params)
    int EVP_MAC_update(EVP_MAC_CTX *ctx, const uint8_t *data, size_t n)
    int EVP_MAC_final(EVP_MAC_CTX *ctx, uint8_t *out, size_t *n, size_t room)
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx)
    int EVP_CipherInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *engine, const uint8_t *key,
                          const uint8_t *iv, int seal)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *ctx, uint8_t *out, int *n, const uint8_t *data, int size)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *ctx, uint8_t *out, int *n)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int type, int arg, void *p)

cdef extern from "<openssl/hmac.h>" nogil:
    uint8_t *HMAC(const EVP_MD *md, const void *key, int key_n, const uint8_t *data, size_t n, uint8_t *out,
                  unsigned int *out_n)

cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_memcmp(const void *x, const void *y, size_t n)
    void OPENSSL_cleanse(void *p, size_t n)

cdef extern from * nogil:
    """
    #include <openssl/core_names.h>
    static EVP_MAC_CTX *hk_hmac_of_sha256(void) {
        OSSL_PARAM digest[] = {
            OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0), OSSL_PARAM_construct_end(),
        };
        EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
        EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
        EVP_MAC_free(mac);
        if (ctx && !EVP_MAC_CTX_set_params(ctx, digest)) {
            EVP_MAC_CTX_free(ctx);
            return NULL;
        }
        return ctx;
    }
    """
    EVP_MAC_CTX *hk_hmac_of_sha256()

cdef extern from * nogil:
    """
    #if defined(__aarch64__)
    #include <sys/auxv.h>
    static int hk_aes_is_fast(void) { return (getauxval(AT_HWCAP) >> 3) & 1; }  /* HWCAP_AES */
    #elif defined(__x86_64__) || defined(__i386__)
    static int hk_aes_is_fast(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
    }
    #else
    static int hk_aes_is_fast(void) { return 0; }
    #endif
    """
    bint hk_aes_is_fast()


cdef bint aes_is_fast() noexcept nogil:
    return hk_aes_is_fast()


cdef uint32_t aead_key_size(uint32_t cipher) noexcept nogil:
    if cipher == AES_128_GCM:
        return 16
    return 32 if cipher == AES_256_GCM or cipher == CHACHA20_POLY1305 else 0


cdef const EVP_CIPHER *cipher_of(uint32_t cipher) noexcept nogil:
    if cipher == AES_128_GCM:
        return EVP_aes_128_gcm()
    if cipher == AES_256_GCM:
        return EVP_aes_256_gcm()
    return EVP_chacha20_poly1305() if cipher == CHACHA20_POLY1305 else NULL


cdef EVP_CIPHER_CTX *aead_start(EVP_CIPHER_CTX *ctx, uint32_t cipher, const uint8_t *key, bint seal) noexcept nogil:
    cdef bint made = ctx == NULL
    if made:
        ctx = EVP_CIPHER_CTX_new()
    # a context that is used again keeps its cipher: to fetch it is the dear part
    if ctx != NULL and EVP_CipherInit_ex(ctx, cipher_of(cipher) if made else NULL, NULL, key, NULL, seal) != 1:
        if made:
            EVP_CIPHER_CTX_free(ctx)
        return NULL
    return ctx


cdef void aead_free(EVP_CIPHER_CTX *ctx) noexcept nogil:
    EVP_CIPHER_CTX_free(ctx)


cdef inline bint begin(EVP_CIPHER_CTX *ctx, const uint8_t *iv, uint64_t number, const uint8_t *header,
                       uint32_t header_n, bint seal) noexcept nogil:
    cdef uint8_t nonce[IV_SIZE]
    cdef int n = 0
    memcpy(nonce, iv, IV_SIZE)
    store64(nonce + 4, load64(nonce + 4) ^ number)
    return (EVP_CipherInit_ex(ctx, NULL, NULL, NULL, nonce, seal) == 1
            and EVP_CipherUpdate(ctx, NULL, &n, header, header_n) == 1)


cdef bint aead_seal(EVP_CIPHER_CTX *ctx, const uint8_t *iv, uint64_t number, const uint8_t *header, uint32_t header_n,
                    const iovec *part, uint32_t parts, uint8_t *out) noexcept nogil:
    cdef int n = 0
    cdef uint32_t i
    if not begin(ctx, iv, number, header, header_n, True):
        return False
    for i in range(parts):
        if EVP_CipherUpdate(ctx, out, &n, <const uint8_t *>part[i].iov_base, <int>part[i].iov_len) != 1:
            return False
        out += n
    return (EVP_CipherFinal_ex(ctx, out, &n) == 1
            and EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, out) == 1)


cdef bint aead_open(EVP_CIPHER_CTX *ctx, const uint8_t *iv, uint64_t number, const uint8_t *header, uint32_t header_n,
                    uint8_t *data, size_t n) noexcept nogil:
    cdef int m = 0
    if n < TAG_SIZE or not begin(ctx, iv, number, header, header_n, False):
        return False
    n -= TAG_SIZE
    return (EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, data + n) == 1
            and (n == 0 or EVP_CipherUpdate(ctx, data, &m, data, <int>n) == 1)
            and EVP_CipherFinal_ex(ctx, data + m, &m) == 1)


cdef EVP_MAC_CTX *hmac = hk_hmac_of_sha256()        # with the digest set; each use copies it


cdef bint hmac_of(EVP_MAC_CTX *ctx, const uint8_t *key, size_t key_n, const uint8_t *data, size_t n,
                  uint8_t *out) noexcept nogil:
    cdef size_t size = 0
    return (ctx != NULL and EVP_MAC_init(ctx, key, key_n, NULL) == 1 and EVP_MAC_update(ctx, data, n) == 1
            and EVP_MAC_final(ctx, out, &size, SECRET_SIZE) == 1)


cdef void hmac_sha256(const uint8_t *key, size_t key_n, const uint8_t *data, size_t n, uint8_t *out) noexcept nogil:
    """RFC 2104. HMAC() looks for its digest by name each time, so it is for want of memory only."""
    cdef EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(hmac)
    cdef unsigned int size = 0
    if not hmac_of(ctx, key, key_n, data, n, out):
        HMAC(EVP_sha256(), key, <int>key_n, data, n, out, &size)
    EVP_MAC_CTX_free(ctx)


cdef void hkdf_extract(const uint8_t *salt, size_t salt_n, const uint8_t *key, size_t key_n, uint8_t *out) noexcept nogil:
    hmac_sha256(salt, salt_n, key, key_n, out)


cdef void hkdf_expand(const uint8_t *secret, const uint8_t *info, size_t info_n, uint8_t *out, size_t n) noexcept nogil:
    cdef uint8_t block[128]
    cdef uint8_t result[SECRET_SIZE]
    memcpy(block, info, info_n)
    block[info_n] = 1                           # the first and only block, RFC 5869 2.3
    hmac_sha256(secret, SECRET_SIZE, block, info_n + 1, result)
    memcpy(out, result, n)
    wipe(result, sizeof(result))


cdef bint same_bytes(const uint8_t *x, const uint8_t *y, size_t n) noexcept nogil:
    return CRYPTO_memcmp(x, y, n) == 0


cdef void wipe(void *p, size_t n) noexcept nogil:
    OPENSSL_cleanse(p, n)
