# What the transport `quic` takes of libngtcp2 0.12 and its companion for GnuTLS.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<ngtcp2/ngtcp2.h>" nogil:
    enum:
        NGTCP2_PROTO_VER_V1
        NGTCP2_ERR_CALLBACK_FAILURE
        NGTCP2_ERR_NOMEM
        NGTCP2_ERR_WRITE_MORE
        NGTCP2_ERR_STREAM_DATA_BLOCKED
        NGTCP2_ERR_DRAINING
        NGTCP2_ERR_CLOSING
        NGTCP2_ERR_DROP_CONN
        NGTCP2_ERR_RETRY
        NGTCP2_ERR_CRYPTO
        NGTCP2_ERR_IDLE_CLOSE
        NGTCP2_ERR_HANDSHAKE_TIMEOUT
        NGTCP2_ERR_RECV_VERSION_NEGOTIATION
        NGTCP2_ERR_VERSION_NEGOTIATION
        NGTCP2_ERR_VERSION_NEGOTIATION_FAILURE
        NGTCP2_STREAM_DATA_FLAG_FIN
        NGTCP2_WRITE_STREAM_FLAG_NONE
        NGTCP2_WRITE_STREAM_FLAG_MORE
        NGTCP2_MAX_CIDLEN
        NGTCP2_STATELESS_RESET_TOKENLEN
        NGTCP2_CRYPTO_ERROR
    ctypedef struct ngtcp2_conn
    ctypedef struct ngtcp2_vec:
        uint8_t *base
        size_t len
    ctypedef struct ngtcp2_cid:
        size_t datalen
        uint8_t data[20]
    ctypedef struct ngtcp2_version_cid:
        uint32_t version
        const uint8_t *dcid
        size_t dcidlen
        const uint8_t *scid
        size_t scidlen
    ctypedef struct ngtcp2_sockaddr:
        pass
    ctypedef struct ngtcp2_addr:
        ngtcp2_sockaddr *addr
        uint32_t addrlen
    ctypedef struct ngtcp2_path:
        ngtcp2_addr local
        ngtcp2_addr remote
        void *user_data
    ctypedef struct ngtcp2_path_storage:
        ngtcp2_path path
    ctypedef struct ngtcp2_pkt_info:
        uint8_t ecn
    ctypedef struct ngtcp2_pkt_hd:
        ngtcp2_cid dcid
        ngtcp2_cid scid
        ngtcp2_vec token
        uint32_t version
        uint8_t type
    ctypedef struct ngtcp2_rand_ctx:
        void *native_handle
    ctypedef struct ngtcp2_mem:
        void *user_data
        void *(*malloc)(size_t size, void *user_data) noexcept nogil
        void (*free)(void *p, void *user_data) noexcept nogil
        void *(*calloc)(size_t n, size_t size, void *user_data) noexcept nogil
        void *(*realloc)(void *p, size_t size, void *user_data) noexcept nogil
    ctypedef enum ngtcp2_cc_algo:
        NGTCP2_CC_ALGO_RENO
        NGTCP2_CC_ALGO_CUBIC
        NGTCP2_CC_ALGO_BBR
        NGTCP2_CC_ALGO_BBR2
    ctypedef struct ngtcp2_settings:
        ngtcp2_cc_algo cc_algo
        uint64_t initial_ts
        size_t max_tx_udp_payload_size
        ngtcp2_vec token
        uint64_t max_window
        uint64_t max_stream_window
        size_t ack_thresh
        uint64_t handshake_timeout
        int no_pmtud
        ngtcp2_rand_ctx rand_ctx
    ctypedef struct ngtcp2_transport_params:
        ngtcp2_cid original_dcid
        ngtcp2_cid retry_scid
        uint8_t retry_scid_present
        uint64_t initial_max_stream_data_uni
        uint64_t initial_max_data
        uint64_t initial_max_streams_uni
        uint64_t max_idle_timeout
        uint64_t active_connection_id_limit
        uint64_t max_ack_delay
        uint8_t disable_active_migration
        uint8_t stateless_reset_token[16]
        uint8_t stateless_reset_token_present
    ctypedef enum ngtcp2_connection_close_error_code_type:
        NGTCP2_CONNECTION_CLOSE_ERROR_CODE_TYPE_TRANSPORT
        NGTCP2_CONNECTION_CLOSE_ERROR_CODE_TYPE_APPLICATION
    ctypedef struct ngtcp2_connection_close_error:
        ngtcp2_connection_close_error_code_type type
        uint64_t error_code
    ctypedef struct ngtcp2_conn_stat:
        uint64_t latest_rtt
        uint64_t min_rtt
        uint64_t smoothed_rtt
        uint64_t rttvar
        uint64_t cwnd
        uint64_t bytes_in_flight
    ctypedef struct ngtcp2_pkt_stateless_reset:
        pass
    ctypedef struct ngtcp2_callbacks:
        void *client_initial
        void *recv_client_initial
        void *recv_crypto_data
        void *encrypt
        void *decrypt
        void *hp_mask
        int (*recv_stream_data)(ngtcp2_conn *c, uint32_t flags, int64_t id, uint64_t offset,
                                const uint8_t *data,
                                size_t n, void *user, void *stream) noexcept nogil
        int (*acked_stream_data_offset)(ngtcp2_conn *c, int64_t id, uint64_t offset, uint64_t n, void *user,
                                        void *stream) noexcept nogil
        int (*stream_close)(ngtcp2_conn *c, uint32_t flags, int64_t id, uint64_t code, void *user,
                            void *stream) noexcept nogil
        int (*stream_reset)(ngtcp2_conn *c, int64_t id, uint64_t size, uint64_t code, void *user,
                            void *stream) noexcept nogil
        int (*recv_stateless_reset)(ngtcp2_conn *c, const ngtcp2_pkt_stateless_reset *r,
                                    void *user) noexcept nogil
        void *recv_retry
        void (*rand)(uint8_t *out, size_t n, const ngtcp2_rand_ctx *ctx) noexcept nogil
        int (*get_new_connection_id)(ngtcp2_conn *c, ngtcp2_cid *cid, uint8_t *token, size_t n,
                                     void *user) noexcept nogil
        void *update_key
        void *delete_crypto_aead_ctx
        void *delete_crypto_cipher_ctx
        void *get_path_challenge_data
        void *version_negotiation
    void ngtcp2_settings_default(ngtcp2_settings *s)
    void ngtcp2_transport_params_default(ngtcp2_transport_params *p)
    void ngtcp2_path_storage_zero(ngtcp2_path_storage *ps)
    int ngtcp2_pkt_decode_version_cid(ngtcp2_version_cid *dest, const uint8_t *p, size_t n,
                                      size_t short_dcidlen)
    int ngtcp2_accept(ngtcp2_pkt_hd *dest, const uint8_t *p, size_t n)
    ssize_t ngtcp2_pkt_write_version_negotiation(
        uint8_t *dest, size_t n, uint8_t unused_random, const uint8_t *dcid, size_t dcidlen,
        const uint8_t *scid, size_t scidlen, const uint32_t *sv, size_t nsv)
    ssize_t ngtcp2_pkt_write_stateless_reset(
        uint8_t *dest, size_t n, const uint8_t *token, const uint8_t *rand, size_t randlen)
    int ngtcp2_conn_client_new(
        ngtcp2_conn **out, const ngtcp2_cid *dcid, const ngtcp2_cid *scid, const ngtcp2_path *path,
        uint32_t version, const ngtcp2_callbacks *cb, const ngtcp2_settings *s,
        const ngtcp2_transport_params *p, const ngtcp2_mem *mem, void *user_data)
    int ngtcp2_conn_server_new(
        ngtcp2_conn **out, const ngtcp2_cid *dcid, const ngtcp2_cid *scid, const ngtcp2_path *path,
        uint32_t version, const ngtcp2_callbacks *cb, const ngtcp2_settings *s,
        const ngtcp2_transport_params *p, const ngtcp2_mem *mem, void *user_data)
    void ngtcp2_conn_del(ngtcp2_conn *c)
    void ngtcp2_conn_set_tls_native_handle(ngtcp2_conn *c, void *tls)
    int ngtcp2_conn_read_pkt(ngtcp2_conn *c, const ngtcp2_path *path, const ngtcp2_pkt_info *pi,
                             const uint8_t *p, size_t n, uint64_t ts)
    ssize_t ngtcp2_conn_writev_stream(
        ngtcp2_conn *c, ngtcp2_path *path, ngtcp2_pkt_info *pi, uint8_t *dest, size_t n, ssize_t *taken,
        uint32_t flags, int64_t stream_id, const ngtcp2_vec *v, size_t vn, uint64_t ts)
    ssize_t ngtcp2_conn_write_connection_close(
        ngtcp2_conn *c, ngtcp2_path *path, ngtcp2_pkt_info *pi, uint8_t *dest, size_t n,
        const ngtcp2_connection_close_error *e, uint64_t ts)
    void ngtcp2_connection_close_error_default(ngtcp2_connection_close_error *e)
    void ngtcp2_connection_close_error_set_transport_error_liberr(
        ngtcp2_connection_close_error *e, int liberr, const uint8_t *reason, size_t n)
    void ngtcp2_connection_close_error_set_transport_error_tls_alert(
        ngtcp2_connection_close_error *e, uint8_t alert, const uint8_t *reason, size_t n)
    void ngtcp2_connection_close_error_set_application_error(
        ngtcp2_connection_close_error *e, uint64_t code, const uint8_t *reason, size_t n)
    void ngtcp2_conn_get_connection_close_error(ngtcp2_conn *c, ngtcp2_connection_close_error *e)
    uint8_t ngtcp2_conn_get_tls_alert(ngtcp2_conn *c)
    const ngtcp2_cid *ngtcp2_conn_get_dcid(ngtcp2_conn *c)
    uint64_t ngtcp2_conn_get_expiry(ngtcp2_conn *c)
    int ngtcp2_conn_handle_expiry(ngtcp2_conn *c, uint64_t ts)
    void ngtcp2_conn_update_pkt_tx_time(ngtcp2_conn *c, uint64_t ts)
    int ngtcp2_conn_get_handshake_completed(ngtcp2_conn *c)
    int ngtcp2_conn_open_uni_stream(ngtcp2_conn *c, int64_t *id, void *user)
    int ngtcp2_conn_extend_max_stream_offset(ngtcp2_conn *c, int64_t id, uint64_t n)
    void ngtcp2_conn_extend_max_offset(ngtcp2_conn *c, uint64_t n)
    void ngtcp2_conn_get_conn_stat(ngtcp2_conn *c, ngtcp2_conn_stat *s)
    size_t ngtcp2_conn_get_path_max_tx_udp_payload_size(ngtcp2_conn *c)
    int ngtcp2_conn_is_in_closing_period(ngtcp2_conn *c)
    int ngtcp2_conn_is_in_draining_period(ngtcp2_conn *c)

cdef extern from "<ngtcp2/ngtcp2_crypto.h>" nogil:
    ctypedef struct ngtcp2_crypto_conn_ref:
        ngtcp2_conn *(*get_conn)(ngtcp2_crypto_conn_ref *r) noexcept nogil
        void *user_data
    void *ngtcp2_crypto_client_initial_cb
    void *ngtcp2_crypto_recv_client_initial_cb
    void *ngtcp2_crypto_recv_crypto_data_cb
    void *ngtcp2_crypto_encrypt_cb
    void *ngtcp2_crypto_decrypt_cb
    void *ngtcp2_crypto_hp_mask_cb
    void *ngtcp2_crypto_recv_retry_cb
    void *ngtcp2_crypto_update_key_cb
    void *ngtcp2_crypto_delete_crypto_aead_ctx_cb
    void *ngtcp2_crypto_delete_crypto_cipher_ctx_cb
    void *ngtcp2_crypto_get_path_challenge_data_cb
    void *ngtcp2_crypto_version_negotiation_cb
    enum:
        NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY
        NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN
    ssize_t ngtcp2_crypto_generate_retry_token(
        uint8_t *token, const uint8_t *secret, size_t n, uint32_t version, const ngtcp2_sockaddr *remote,
        uint32_t remote_n, const ngtcp2_cid *retry_scid, const ngtcp2_cid *odcid, uint64_t ts)
    int ngtcp2_crypto_verify_retry_token(
        ngtcp2_cid *odcid, const uint8_t *token, size_t token_n, const uint8_t *secret, size_t n,
        uint32_t version, const ngtcp2_sockaddr *remote, uint32_t remote_n, const ngtcp2_cid *dcid,
        uint64_t timeout, uint64_t ts)
    ssize_t ngtcp2_crypto_write_retry(
        uint8_t *dest, size_t n, uint32_t version, const ngtcp2_cid *dcid, const ngtcp2_cid *scid,
        const ngtcp2_cid *odcid, const uint8_t *token, size_t token_n)
    int ngtcp2_crypto_generate_stateless_reset_token(
        uint8_t *token, const uint8_t *secret, size_t n, const ngtcp2_cid *cid)

cdef extern from "<ngtcp2/ngtcp2_crypto_gnutls.h>" nogil:
    int ngtcp2_crypto_gnutls_configure_server_session(void *session)
    int ngtcp2_crypto_gnutls_configure_client_session(void *session)
