from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from hooker.vtl.api cimport *

cdef vtl_endpoint *vtl_endpoint_new(const vtl_config *cfg, const vtl_sink *sink) noexcept nogil
cdef void vtl_endpoint_free(vtl_endpoint *ep) noexcept nogil
# With a key the datagram is decrypted where it is.
cdef int vtl_recv(vtl_endpoint *ep, uint8_t *pkt, size_t n, const vtl_addr *src, uint8_t ecn,
                  uint64_t now) noexcept nogil     # ecn: the two bits of the IP header, 0 if unknown
# The versions of an endpoint with a key, the cipher that this machine does best first; how many. Room for 3.
cdef uint32_t vtl_encrypted_versions(uint32_t *out) noexcept nogil
cdef int vtl_build(vtl_endpoint *ep, vtl_batch *b, uint64_t now) noexcept nogil   # datagrams added; 0: nothing to send now
cdef bint vtl_has_more(const vtl_endpoint *ep) noexcept nogil    # the last batch was full before all had their turn
cdef uint64_t vtl_timer(vtl_endpoint *ep) noexcept nogil                          # next deadline, UINT64_MAX: none
cdef void vtl_on_timer(vtl_endpoint *ep, uint64_t now) noexcept nogil
# ICMP says that `to` cannot be reached; quoted: of the datagram it is about, what the error shows of it.
cdef void vtl_path_error(vtl_endpoint *ep, const vtl_addr *to, const uint8_t *quoted, size_t n, uint64_t now) noexcept nogil
# What makes cookies that this endpoint believes, docs/vtl.md 2.2: the secret, and how many ns it is behind the caller's clock.
cdef const uint64_t *vtl_secret(const vtl_endpoint *ep) noexcept nogil
cdef uint64_t vtl_behind(const vtl_endpoint *ep) noexcept nogil
cdef uint64_t vtl_drops(vtl_endpoint *ep, int reason) noexcept nogil
cdef uint64_t vtl_held_less(const vtl_endpoint *ep) noexcept nogil    # bytes that peers make us hold less than at the peak …
cdef void vtl_held_noted(vtl_endpoint *ep) noexcept nogil              # … which is now
# What the engine holds for a peer, of one kind: more or less by n. It may be more than its source is shown afterwards:
# when the association has ended it is forgotten.
cdef void vtl_take(vtl_assoc *a, vtl_take_kind what, int64_t n) noexcept nogil
cdef uint64_t vtl_taken(const vtl_assoc *a, vtl_take_kind what) noexcept nogil         # for its source
cdef uint32_t vtl_sources(const vtl_assoc *a) noexcept nogil           # that share: 256 at least
cdef void vtl_get_counters(const vtl_endpoint *ep, vtl_counters *out) noexcept nogil

cdef vtl_assoc *vtl_connect(vtl_endpoint *ep, const vtl_addr *to, uint64_t now) noexcept nogil  # the existing one, or a new one; NULL: no memory
# The same with a reliability function by name, whatever that of the configuration is; NULL: unknown, or no memory. A peer
# that does not take it has selective-repeat.
cdef vtl_assoc *vtl_connect_as(vtl_endpoint *ep, const vtl_addr *to, const char *reliability, uint64_t now) noexcept nogil
cdef bint vtl_is_up(const vtl_assoc *a) noexcept nogil
cdef bint vtl_repairs(const vtl_assoc *a) noexcept nogil          # what is lost is sent again; once it is up
cdef bint vtl_is_whole(const vtl_assoc *a) noexcept nogil         # its function gives nothing up
cdef const char *vtl_reliability(const vtl_assoc *a) noexcept nogil    # the function's name, once it is up
# ns within which what was sent is acknowledged as a rule: 2 SRTT + 4 RTTVAR. 0: nothing was measured yet
cdef uint64_t vtl_patience(const vtl_assoc *a) noexcept nogil
cdef const vtl_addr *vtl_peer(const vtl_assoc *a) noexcept nogil
cdef void vtl_close(vtl_assoc *a, uint32_t reason, uint64_t now) noexcept nogil   # resets its streams, tells the peer
cdef void vtl_assoc_get_stats(const vtl_assoc *a, vtl_assoc_stats *out) noexcept nogil
cdef void vtl_set_user(vtl_assoc *a, void *user) noexcept nogil
cdef void *vtl_user(const vtl_assoc *a) noexcept nogil

# OPEN goes out at once, or when the association comes up.
cdef vtl_stream *vtl_open(vtl_assoc *a, const vtl_open_info *info, void *user, uint64_t now) noexcept nogil
cdef uint64_t vtl_locator(const uint8_t *key) noexcept nogil                      # of a flow with that key
# Whether the peer whose OPEN that was knows the flow's key; if so, our OPEN_ACK will say that we do.
cdef bint vtl_prove(vtl_stream *s, const vtl_open_info *info, const uint8_t *key) noexcept nogil
cdef void vtl_accept(vtl_stream *s, void *user) noexcept nogil
cdef void vtl_reject(vtl_stream *s, uint32_t code) noexcept nogil
cdef void vtl_confirm(vtl_stream *s) noexcept nogil
cdef void vtl_cancel(vtl_stream *s) noexcept nogil
cdef void vtl_stream_set_user(vtl_stream *s, void *user) noexcept nogil
cdef void *vtl_stream_user(const vtl_stream *s) noexcept nogil
cdef vtl_assoc *vtl_stream_assoc(const vtl_stream *s) noexcept nogil
cdef uint32_t vtl_stream_id(const vtl_stream *s) noexcept nogil

# Bytes are borrowed, not copied: `owner` gets release() for each part once the peer acknowledged it (or the stream died).
cdef int vtl_write(vtl_stream *s, const uint8_t *data, size_t n, void *owner) noexcept nogil    # 0, or -1: no memory
cdef void vtl_fin(vtl_stream *s) noexcept nogil
cdef void vtl_reset(vtl_stream *s, uint32_t code) noexcept nogil
cdef void vtl_consumed(vtl_stream *s, size_t n) noexcept nogil
cdef size_t vtl_unacked(const vtl_stream *s) noexcept nogil      # bytes written and not yet acknowledged (the send buffer)
cdef size_t vtl_send_target(const vtl_stream *s) noexcept nogil  # how large that should be to keep the path full (≈ 2 × cwnd)

# Channels: the outgoing queue of one flow, beside which VTL knows nothing of flows. Lost blocks go out again, before
# new ones. While an association has channels it is kept alive as with streams. NULL: no memory, too many, or it is down.
cdef vtl_channel *vtl_channel_open(vtl_assoc *a, void *user) noexcept nogil
# Drops what is queued; borrowed bytes come back with the next vtl_build. What was said still goes out.
cdef void vtl_channel_close(vtl_channel *c) noexcept nogil
# Bytes are borrowed: `owner` gets release() for each part once the peer acknowledged it (or the channel is closed).
cdef int vtl_channel_send(vtl_channel *c, const vtl_block *b, void *owner) noexcept nogil   # 0, or -1: full, or down
# A control message of 1 to VTL_MAX_MESSAGE bytes, copied, sent before blocks, and again until it is acknowledged.
# 0, or -1: full, or down.
cdef int vtl_channel_say(vtl_channel *c, const uint8_t *p, uint32_t n) noexcept nogil
cdef void vtl_channel_report(vtl_channel *c) noexcept nogil     # one is due: report() is asked when a datagram has room
cdef size_t vtl_channel_waiting(const vtl_channel *c) noexcept nogil    # bytes of blocks not sent, or lost
cdef uint64_t vtl_channels_waiting(const vtl_channel *c) noexcept nogil # of all channels of its association
# As many of them keep the network busy until acknowledgements bring more; 0: nothing is known.
cdef uint64_t vtl_channels_enough(const vtl_channel *c) noexcept nogil
# Of the blocks that are not acknowledged the one with the highest position, or nearly; False: there is none.
cdef bint vtl_channel_newest(const vtl_channel *c, vtl_block *out) noexcept nogil
cdef size_t vtl_channel_unacked(const vtl_channel *c) noexcept nogil    # bytes of blocks queued or in flight
# Nothing is queued or on its way: a channel that is closed now and opened again when it is wanted is the same to its peer.
cdef bint vtl_channel_at_rest(const vtl_channel *c) noexcept nogil
# Keeps the association alive as a channel would, for a flow whose channel is closed meanwhile; until vtl_let_go.
cdef void vtl_hold(vtl_assoc *a) noexcept nogil
cdef void vtl_let_go(vtl_assoc *a) noexcept nogil
cdef vtl_assoc *vtl_channel_assoc(const vtl_channel *c) noexcept nogil  # NULL: it is down
# A control message of nobody's channel: a greeting, or an answer about a flow that nobody knows. -1: full, or down.
cdef int vtl_say(vtl_assoc *a, const uint8_t *p, uint32_t n) noexcept nogil
