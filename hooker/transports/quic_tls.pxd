# TLS 1.3 of connections over QUIC: both ends prove that they have the same pre-shared key. See quic_tls.pyx.

from libc.stdint cimport uint8_t
from hooker.includes.gnutls cimport *
from hooker.includes.ngtcp2 cimport ngtcp2_conn, ngtcp2_crypto_conn_ref

cdef enum:
    TLS_KEYS = 2
    SECRET_SIZE = 32           # bytes

cdef struct TlsKeys:           # of a transport
    uint8_t psk[2][32]         # TLS_KEYS of SECRET_SIZE; the first one is for what we begin
    char name[2][24]
    int n
    gnutls_priority_t priority
    gnutls_psk_client_credentials_t client
    gnutls_psk_server_credentials_t server

cdef struct TlsEnd:            # of a connection
    ngtcp2_crypto_conn_ref ref # which the library finds by the session
    ngtcp2_conn *conn
    const TlsKeys *keys
    gnutls_session_t session

# Of keys of 32 bytes; none: the one that everybody knows. Raises MemoryError.
cdef int tls_keys_init(TlsKeys *k, keys) except -1
cdef void tls_keys_free(TlsKeys *k) noexcept nogil
cdef bint tls_begin(TlsEnd *e, const TlsKeys *k, bint server) noexcept nogil     # False: no memory
cdef void tls_end(TlsEnd *e) noexcept nogil
