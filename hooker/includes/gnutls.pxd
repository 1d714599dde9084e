# What the transport `quic` takes of GnuTLS: TLS 1.3 with a pre-shared key.
from libc.stdint cimport uint8_t

cdef extern from "<gnutls/gnutls.h>" nogil:
    ctypedef struct gnutls_datum_t:
        unsigned char *data
        unsigned int size
    ctypedef void *gnutls_session_t
    ctypedef void *gnutls_priority_t
    ctypedef void *gnutls_psk_client_credentials_t
    ctypedef void *gnutls_psk_server_credentials_t
    enum:
        GNUTLS_SERVER
        GNUTLS_CLIENT
        GNUTLS_NO_TICKETS
        GNUTLS_CRD_PSK
        GNUTLS_PSK_KEY_RAW
        GNUTLS_ALPN_MANDATORY
    int gnutls_init(gnutls_session_t *s, unsigned int flags)
    void gnutls_deinit(gnutls_session_t s)
    void gnutls_session_set_ptr(gnutls_session_t s, void *p)
    void *gnutls_session_get_ptr(gnutls_session_t s)
    int gnutls_priority_init(gnutls_priority_t *p, const char *text, const char **bad)
    void gnutls_priority_deinit(gnutls_priority_t p)
    int gnutls_priority_set(gnutls_session_t s, gnutls_priority_t p)
    int gnutls_credentials_set(gnutls_session_t s, int kind, void *credentials)
    int gnutls_alpn_set_protocols(gnutls_session_t s, const gnutls_datum_t *names, unsigned int n,
                                  unsigned int flags)
    int gnutls_psk_allocate_client_credentials(gnutls_psk_client_credentials_t *c)
    void gnutls_psk_free_client_credentials(gnutls_psk_client_credentials_t c)
    int gnutls_psk_set_client_credentials(gnutls_psk_client_credentials_t c, const char *name,
                                          const gnutls_datum_t *key,
                                          int format)
    int gnutls_psk_allocate_server_credentials(gnutls_psk_server_credentials_t *c)
    void gnutls_psk_free_server_credentials(gnutls_psk_server_credentials_t c)
    void gnutls_psk_set_server_credentials_function(
        gnutls_psk_server_credentials_t c,
        int (*f)(gnutls_session_t s, const char *name, gnutls_datum_t *key) noexcept nogil)
    void *gnutls_malloc(size_t n)
