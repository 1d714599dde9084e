# What the engine and VTL say to each other. VTL does no I/O and reads no clock: datagrams, times
# (nanoseconds, one monotonic clock) and randomness come in; datagrams and a deadline go out.
# Everything here is `noexcept nogil`; the callbacks run inside the call that caused them, but closed(),
# assoc_down() and channel_down(): those, the release() and reset() that go with them, and every release() of a block
# come out of the next vtl_build. Call it when the datagrams of the batch before are sent (or given up): until then their
# memory stays as it is.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef struct vtl_addr:          # a peer's transport address
    uint8_t ip[16]             # IPv4 as ::ffff:a.b.c.d
    uint16_t port              # host byte order
    uint16_t zero
    uint8_t local[16]          # which of our addresses it has sent to, and hears from; zeros: the system chooses

cdef inline bint same_addr(const vtl_addr *x, const vtl_addr *y) noexcept nogil:
    return memcmp(x.ip, y.ip, 16) == 0 and x.port == y.port

cdef inline bint same_ends(const vtl_addr *x, const vtl_addr *y) noexcept nogil:
    return same_addr(x, y) and memcmp(x.local, y.local, 16) == 0

cdef extern from *:            # opaque; the structures are in core.pxd
    """
    typedef struct vtl_endpoint vtl_endpoint;
    typedef struct vtl_assoc vtl_assoc;
    typedef struct vtl_stream vtl_stream;
    typedef struct vtl_channel vtl_channel;
    """
    ctypedef struct vtl_endpoint   # all associations of one engine
    ctypedef struct vtl_assoc      # one association
    ctypedef struct vtl_stream     # one flow's byte stream, both directions
    ctypedef struct vtl_channel    # what one flow sends as blocks and messages; their order is others' business


cdef enum:
    VTL_MAX_MESSAGE = 96       # bytes of a control message
    VTL_BLOCK_FLAGS = 0x3f     # flags that a block can carry
    VTL_BLOCK_EVERY = 0x20     # of these, the one that goes with every part of it

cdef enum vtl_take_kind:       # what the engine holds for peers of what its own applications sent: counted by source (docs/vtl.md, 7.1)
    VTL_TAKE_SLABS             # of which the peer has not acknowledged some byte
    VTL_TAKE_COPIES            # bytes
    VTL_TAKE_KEPT              # segments
    VTL_TAKES

cdef struct vtl_block:         # bytes of a flow, at a place
    uint32_t id                # whose: its receiver chose it
    uint32_t position          # of the first byte
    uint8_t epoch
    uint8_t flags              # of VTL_BLOCK_FLAGS; all but VTL_BLOCK_EVERY go with the last byte, wherever it is cut
    uint32_t n                 # bytes; may be 0
    const uint8_t *data


cdef struct vtl_open_info:     # of an OPEN
    uint64_t locator           # what names the flow to who knows its key
    uint8_t key[16]            # what both ends of the flow know, and nobody else; the acceptor says its own with vtl_prove()
    uint64_t proof             # that the opener knows it; VTL's own work
    bint committed             # the opener is engaged already; there is no way back for it


cdef struct vtl_sink:          # the callbacks; `ctx` comes back as their first argument
    void *ctx
    void (*random)(void *ctx, uint8_t *out, size_t n) noexcept nogil
    void (*assoc_up)(void *ctx, vtl_assoc *a) noexcept nogil
    void (*assoc_down)(void *ctx, vtl_assoc *a, uint32_t reason) noexcept nogil   # after reset+closed of each stream
    void (*opened)(void *ctx, vtl_stream *s, const vtl_open_info *info) noexcept nogil  # peer's OPEN: accept, reject, or later
    void (*accepted)(void *ctx, vtl_stream *s) noexcept nogil                     # OPEN_ACK for ours
    void (*rejected)(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil      # OPEN_REJECT for ours; then closed()
    void (*confirmed)(void *ctx, vtl_stream *s) noexcept nogil                    # opener is engaged (CONFIRM or committed)
    void (*cancelled)(void *ctx, vtl_stream *s) noexcept nogil                    # opener has released; then closed()
    # In-order bytes. stable: data lies in the datagram given to vtl_recv and lives as long as that does;
    # otherwise only during the call. The engine owns them now and calls vtl_consumed when the application side took them.
    void (*data)(void *ctx, vtl_stream *s, const uint8_t *data, size_t n, bint stable) noexcept nogil
    void (*fin)(void *ctx, vtl_stream *s) noexcept nogil                          # all data before it was given
    void (*reset)(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil         # by the peer, or with its association
    # n more bytes of ours, in stream order; 0: only some behind a hole, and vtl_send_target has grown
    void (*acked)(void *ctx, vtl_stream *s, size_t n) noexcept nogil
    void (*release)(void *ctx, void *owner, size_t n) noexcept nogil              # borrowed bytes given back
    void (*closed)(void *ctx, vtl_stream *s) noexcept nogil                       # done in both directions; s is invalid after
    # Channels. NULL: such frames are not understood. Blocks come in whatever order, perhaps twice, cut anywhere; messages
    # (1 to VTL_MAX_MESSAGE bytes) in whatever order, perhaps twice. `stable` as above; a message lives during the call.
    void (*block)(void *ctx, vtl_assoc *a, const vtl_block *b, bint stable) noexcept nogil
    void (*message)(void *ctx, vtl_assoc *a, const uint8_t *p, size_t n) noexcept nogil
    # The peer has given up these bytes (data: NULL; n: 1 to 65,535), and sent some behind them. To be judged as a block of
    # zeros would be: it may come twice, or have arrived, and a liar may say it of what he never sent. Nothing is to be filled
    # beyond the highest position that has arrived. NULL: no function that gives up blocks is taken.
    void (*hole)(void *ctx, vtl_assoc *a, const vtl_block *b) noexcept nogil
    # The channel's newest report, written to `out`; its bytes, at most VTL_MAX_MESSAGE; 0: none after all. Runs while
    # datagrams are built, so it calls nothing of VTL.
    uint32_t (*report)(void *ctx, void *user, uint8_t *out) noexcept nogil
    # Its association is down, for that reason, and takes nothing more; the channel stays until vtl_channel_close.
    void (*channel_down)(void *ctx, void *user, uint32_t reason) noexcept nogil
    # From now on we answer to that connection id, or no more; before any datagram tells it. NULL: nobody wants to know.
    void (*named)(void *ctx, uint64_t cid, bint known) noexcept nogil


cdef enum:
    VTL_MAX_VERSIONS = 8
    VTL_MAX_KEYS = 2
    VTL_KEY_SIZE = 32          # bytes

cdef struct vtl_config:
    uint32_t versions[VTL_MAX_VERSIONS]    # spoken, the preferred one first
    uint32_t n_versions
    uint32_t overhead          # bytes of IPv4's header and of the carrier's; 0: UDP's. IPv6: 20 more
    uint32_t max_datagram      # bytes of a datagram to search up to on IPv4; 20 fewer on IPv6
    uint32_t first_datagram    # what handshakes try first, counted the same; 0: max_datagram
    uint64_t stream_window     # bytes a peer may send ahead of vtl_consumed, one stream
    uint64_t assoc_window      # the same, all streams of an association
    uint64_t stream_window_max # to what these may grow; less than the beginning: they do not
    uint64_t assoc_window_max
    uint64_t window_budget     # by how many bytes the windows of all associations together may have grown
    uint64_t budget            # bytes that all peers together may make us hold; 0: no limit
    uint64_t max_ack_delay     # ns
    uint64_t keepalive         # ns without a datagram from the peer before a PING (only with streams open)
    uint64_t channel_queue     # bytes that one channel may have queued and in flight, its records included; 0: 4 MiB
    uint64_t dead_after        # ns without any answer before the association is down
    uint64_t idle_after        # ns without streams before it closes
    uint64_t handshake_timeout # ns
    char congestion[16]        # name in the registry
    char reliability[24]       # the same, of associations that we begin; "": selective-repeat. With the peer's: that, too
    uint32_t accepts           # what peers may begin beside that and selective-repeat: bit n is the function with code n
    uint32_t window            # packets on their way, of functions that bound them; 0: their own
    uint32_t repeats           # a block is given up, by functions that do so, when it was lost after so many; 255: never …
    uint64_t deadline          # … or so many ns after it first left; 0: never
    uint32_t keys              # pre-shared keys; 0: plain. The first one is for associations we begin
    uint8_t key[VTL_MAX_KEYS][VTL_KEY_SIZE]
    uint64_t key_update_after  # packets encrypted with one key; 0: as many as is good
    uint32_t fec               # repairs are sent where the path loses packets


cdef struct vtl_datagram:      # one datagram of a batch: iov[first : first + count], `size` bytes in all
    vtl_addr to
    uint32_t first
    uint32_t count
    uint32_t size
    uint8_t ecn                # the two bits for the IP header
    uint8_t alone              # it tries a size: in no train with others, and nothing waits for it
    uint8_t unproven           # an answer to whoever it was: nothing is to be looked for, or kept, for its sake


cdef struct vtl_batch:         # filled by vtl_build; memory is the caller's
    iovec *iov
    uint32_t iov_cap
    uint32_t iov_len
    vtl_datagram *dgram
    uint32_t dgram_cap
    uint32_t dgram_len
    uint8_t *scratch           # headers and control frames are written here
    uint32_t scratch_cap
    uint32_t scratch_len
    uint8_t *sealed            # encrypted datagrams; not needed without a key
    uint32_t sealed_cap
    uint32_t sealed_len


cdef struct vtl_counters:      # of an endpoint
    uint64_t unproven_received, unproven_sent   # bytes from addresses not proven, and the answers to them
    uint64_t paths_proven, paths_failed         # addresses that answered a challenge, or did not
    uint64_t key_mismatches                     # handshakes signed with no key of ours, or not at all
    uint64_t amplification_limited              # datagrams not sent, for their address has sent too little
    uint64_t repairs_sent, packets_repaired     # see vtl_assoc_stats
    uint64_t held                               # bytes that peers make us hold now, of vtl_config.budget
    uint64_t strangers                          # associations that peers began and that were of no use yet
    uint64_t evicted                            # of those, given up for newer ones
    uint64_t over_budget                        # datagrams dropped for want of room in the budget
    uint64_t unproven_errors                    # ICMP errors that quoted nothing only the path knows


cdef struct vtl_assoc_stats:
    uint64_t packets_sent, packets_received, packets_lost, packets_spurious
    uint64_t bytes_sent, bytes_received          # datagram payload
    uint64_t stream_bytes_sent, stream_bytes_retransmitted, stream_bytes_received     # blocks' too
    uint64_t srtt_ns, min_rtt_ns, rttvar_ns, cwnd, bytes_in_flight, pto_count
    uint32_t streams
    uint32_t up
    uint64_t packets_marked                     # CE, as far as the peer told us
    uint64_t reordering                         # packets that may overtake one before it counts as lost
    uint64_t receive_window                     # bytes, of the association
    uint32_t ecn                                # the path keeps the ECN bits
    uint32_t moves                              # changes of the peer's address
    uint32_t version
    uint32_t key_updates                        # of ours
    uint64_t forged                             # packets that were not what their tag says
    uint64_t repairs_sent                       # REPAIR frames
    uint64_t packets_repaired                   # packets of the peer's brought back by one
    uint32_t datagram                           # bytes, the largest we send now
    uint32_t mtu_probes                         # datagrams sent to find that size
    uint32_t mtu_holes                          # times that the path no longer carried it
    uint32_t channels
    uint32_t reliability                        # the code of its function
    uint64_t bytes_given_up                     # of blocks: the peer was told that it misses them
    uint64_t bytes_missing                      # the same of the peer's; it may have said more than is true


# Codes of vtl_recv: 0, or why the datagram was dropped (each counted).
cdef enum vtl_drop:
    VTL_OK = 0
    VTL_DROP_SHORT = 1          # truncated header or frame
    VTL_DROP_VERSION = 2
    VTL_DROP_TYPE = 3           # unknown packet or frame type
    VTL_DROP_NO_ASSOC = 4       # connection id unknown, or from elsewhere and not new
    VTL_DROP_COOKIE = 5
    VTL_DROP_DUPLICATE = 6
    VTL_DROP_PROTOCOL = 7       # well-formed, but breaks a rule (beyond flow control, …)
    VTL_DROP_MEMORY = 8
    VTL_DROP_AUTH = 9           # not signed or encrypted with the key
    VTL_DROP_ORDER = 10         # it is not the next one, where packets are taken in order only
    VTL_DROP_REASONS = 11

# Reasons of assoc_down() and channel_down(), and of the resets that come with them.
cdef enum vtl_down:
    VTL_DOWN_CLOSED = 0            # by us, vtl_close; codes up to 0xffff are the engine's
    VTL_DOWN_IDLE = 0x10001
    VTL_DOWN_HANDSHAKE_TIMEOUT = 0x10002
    VTL_DOWN_TIMEOUT = 0x10003     # peer vanished
    VTL_DOWN_UNREACHABLE = 0x10004 # ICMP
    VTL_DOWN_STATELESS_RESET = 0x10005
    VTL_DOWN_VERSION = 0x10006
    VTL_DOWN_KEY = 0x10007         # the other side has no key, or another one
    VTL_DOWN_AEAD_LIMIT = 0x10008  # no more may be encrypted or tried with these keys
