"""TLS 1.3 of connections over QUIC, by pre-shared keys alone (RFC 8446, 2.2: psk_dhe_ke): no certificate,
nothing of X.509 is parsed, and a handshake's answer is one datagram.

1. With a key both ends prove that they have it, and what they agree on is secret also from who learns the
   key later (X25519). What TLS and tokens use is derived from the key, so no key is used for two things.
2. Without one the key is known to everybody. That proves nothing, as a certificate that nobody verifies
   would not; who is not on the path between the two still cannot speak in either's place.
3. There are no tickets, so there is no 0-RTT: a connection is warm for as long as it is used.
"""

from libc.string cimport memcpy, memset, strcmp
from hooker.includes.gnutls cimport *
from hooker.includes.ngtcp2 cimport *

import hashlib
import hmac

OPEN_KEY = bytes(32)

cdef extern from *:
    """
    static const char hk_alpn[] = "hooker/1";
    static const char hk_priority[] = "NONE:+VERS-TLS1.3:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:+ECDHE-PSK"
                                      ":+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL:%DISABLE_TLS13_COMPAT_MODE";
    """
    const char ALPN "hk_alpn"[9]
    const char *PRIORITY "hk_priority"


def derived(bytes key not None, str purpose):
    """32 bytes."""
    return hmac.digest(key, f"hooker quic {purpose}".encode(), hashlib.sha256)


cdef int find_key(gnutls_session_t session, const char *name, gnutls_datum_t *key) noexcept nogil:
    cdef const TlsKeys *k = (<TlsEnd *>gnutls_session_get_ptr(session)).keys
    cdef int i
    for i in range(k.n):
        if strcmp(k.name[i], name) == 0:
            key.data = <unsigned char *>gnutls_malloc(SECRET_SIZE)      # which the library frees
            if key.data == NULL:
                return -1
            memcpy(key.data, k.psk[i], SECRET_SIZE)
            key.size = SECRET_SIZE
            return 0
    return -1


cdef int tls_keys_init(TlsKeys *k, keys) except -1:
    cdef gnutls_datum_t datum
    cdef bytes text
    memset(k, 0, sizeof(TlsKeys))
    for key in (keys or (OPEN_KEY,))[:TLS_KEYS]:
        text = derived(key, "psk")
        memcpy(k.psk[k.n], <const char *>text, SECRET_SIZE)
        text = derived(key, "name").hex()[:16].encode()
        memcpy(k.name[k.n], <const char *>text, len(text))
        k.n += 1
    datum.data, datum.size = k.psk[0], SECRET_SIZE
    if (gnutls_priority_init(&k.priority, PRIORITY, NULL) < 0
            or gnutls_psk_allocate_client_credentials(&k.client) < 0
            or gnutls_psk_allocate_server_credentials(&k.server) < 0
            or gnutls_psk_set_client_credentials(k.client, k.name[0], &datum, GNUTLS_PSK_KEY_RAW) < 0):
        raise MemoryError("TLS credentials")
    gnutls_psk_set_server_credentials_function(k.server, find_key)
    return 0


cdef void tls_keys_free(TlsKeys *k) noexcept nogil:
    if k.priority != NULL:
        gnutls_priority_deinit(k.priority)
    if k.client != NULL:
        gnutls_psk_free_client_credentials(k.client)
    if k.server != NULL:
        gnutls_psk_free_server_credentials(k.server)
    memset(k, 0, sizeof(TlsKeys))


cdef ngtcp2_conn *conn_of(ngtcp2_crypto_conn_ref *r) noexcept nogil:
    return (<TlsEnd *>r).conn


cdef bint tls_begin(TlsEnd *e, const TlsKeys *k, bint server) noexcept nogil:
    cdef gnutls_datum_t alpn
    cdef gnutls_session_t s = NULL
    e.keys = k
    e.ref.get_conn = conn_of
    if gnutls_init(&s, (GNUTLS_SERVER if server else GNUTLS_CLIENT) | GNUTLS_NO_TICKETS) < 0:
        return False
    e.session = s
    alpn.data, alpn.size = <unsigned char *>ALPN, sizeof(ALPN) - 1
    gnutls_session_set_ptr(s, e)
    return (gnutls_priority_set(s, k.priority) >= 0
            and gnutls_credentials_set(s, GNUTLS_CRD_PSK, <void *>k.server
                                       if server else <void *>k.client) >= 0
            and gnutls_alpn_set_protocols(s, &alpn, 1, GNUTLS_ALPN_MANDATORY) >= 0
            and (ngtcp2_crypto_gnutls_configure_server_session(s) if server
                 else ngtcp2_crypto_gnutls_configure_client_session(s)) == 0)


cdef void tls_end(TlsEnd *e) noexcept nogil:
    if e.session != NULL:
        gnutls_deinit(e.session)
    e.session = NULL
