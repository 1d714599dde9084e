# A transport over QUIC: its structures, and how an association begins, waits and ends. See quic.pyx.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from hooker.carriers.contract cimport Carrier
from hooker.includes.ngtcp2 cimport ngtcp2_cc_algo, ngtcp2_cid, ngtcp2_conn, ngtcp2_mem
from hooker.transports.contract cimport Association, PeerAddress, Transport, down_reason
from hooker.transports.quic_lanes cimport Inlet, Lane
from hooker.transports.quic_tls cimport TlsEnd, TlsKeys
from hooker.transports.queues cimport Outgoing, QueueShared
from hooker.transports.sources cimport Source, SourceTable
from hooker.vtl.api cimport vtl_addr, vtl_batch

cdef enum:
    SLOTS = 2048               # associations
    CID_SIZE = 12              # bytes of connection ids that we choose: slot, mark, random
    TX_PACKETS = 256           # of one batch
    TX_SIZE = 1472             # bytes of a datagram at most
    BASE_SIZE = 1200           # and of one that each path carries (RFC 9000 14)
    RX_KEPT = 128 << 10        # bytes of streams: those of a batch, which is settled when there are more
    SESSION_COST = 64 << 10    # bytes, about, of what TLS holds for one association

cdef enum quic_state:
    QUIC_CONNECTING = 1
    QUIC_STRANGER              # the peer has begun it, and said nothing yet
    QUIC_UP
    QUIC_DEAD                  # in `dead`

cdef struct QuicAssociation:
    Association base
    PeerAddress peer           # with its engine's port
    TlsEnd tls                 # the connection, too
    ngtcp2_mem memory          # which counts
    vtl_addr remote            # where its datagrams go, and from which of our addresses
    uint32_t slot
    uint16_t mark              # of its connection ids
    ngtcp2_cid first           # the connection id that the peer has begun with
    quic_state state
    bint outgoing
    bint announced             # the engine knows it
    bint in_ready
    bint opened                # our lanes are
    bint starved               # its source's share is used up
    bint farewell              # the peer is to be told
    uint8_t why                # down_reason
    bint narrow                # its path has become narrower than it was at the beginning
    int error                  # the library's; 0: none
    QuicAssociation *ready_next
    QuicAssociation *dead_next
    Outgoing out
    Source *source
    uint32_t holds
    uint64_t taken[3]          # by take_kind
    uint64_t due               # ns; UINT64_MAX: never
    uint64_t expiry            # the same, of the connection
    uint64_t began
    uint64_t heard
    uint64_t asked             # since when a PING is unanswered; 0: none is
    uint64_t hole_at           # when that began last while something waited for acknowledgements
    uint64_t doubted           # since when something says that nobody is there; 0: nothing does
    uint64_t idle_since        # 0: it is in use
    uint32_t turn              # the lane that had the last one
    uint64_t waiting           # bit by lane: there is something that has not gone
    uint64_t blocked           # the same: the peer's flow control lets no more go
    Lane lanes[33]             # STREAMS
    Inlet inlets[33]
    uint64_t bytes_sent, bytes_received, messages_received

cdef struct QuicCounts:
    uint64_t accepted, refused, evicted, connects, connects_failed, broken, over_budget
    uint64_t retries, resets, version_answers, dropped, key_mismatches
    uint64_t bytes_sent, bytes_received
    uint64_t sent, received, send_calls, recv_calls, send_errors
    uint64_t associations, strangers_now, held

cdef struct QuicTransport:
    Transport base
    Carrier *carrier
    TlsKeys tls
    uint8_t reset_secret[32]   # SECRET_SIZE
    uint8_t token_secret[32]
    ngtcp2_cc_algo congestion
    uint64_t dead_after        # ns
    uint64_t now
    uint64_t next_due
    uint16_t port              # the engine's; ours is the next number
    QuicAssociation *slots[2048]        # SLOTS
    uint32_t top               # no slot from there on is used
    uint32_t count
    uint32_t strangers
    uint32_t begun             # strangers, in this round
    QuicAssociation *ready_first
    QuicAssociation *ready_last
    QuicAssociation *dead
    QueueShared shared
    SourceTable sources
    vtl_batch batch
    uint32_t batch_at          # datagrams of it that have gone
    uint8_t *tx
    uint8_t *rx                # RX_KEPT bytes: what has come of streams and is not settled
    uint32_t rx_n
    uint64_t held_peak
    uint8_t hello[34]          # its options
    QuicCounts n
    QuicCounts noted           # note()


cdef inline QuicTransport *T(Transport *t) noexcept nogil:
    return <QuicTransport *>t

cdef inline QuicAssociation *A(const Association *a) noexcept nogil:
    return <QuicAssociation *>a

cdef inline uint32_t datagram_size(const QuicAssociation *a) noexcept nogil:
    """At most. A question goes wherever anything does."""
    return BASE_SIZE if a.narrow or a.asked else TX_SIZE

cdef inline QuicTransport *of(const QuicAssociation *a) noexcept nogil:
    return <QuicTransport *>a.base.t

cdef inline bint in_use(const QuicAssociation *a) noexcept nogil:
    return a.out.channels > 0 or a.holds > 0

# NULL: no room
cdef QuicAssociation *association_new(QuicTransport *t, const PeerAddress *peer) noexcept nogil
cdef void association_free(QuicTransport *t, QuicAssociation *a) noexcept nogil
cdef void make_ready(QuicAssociation *a) noexcept nogil                         # something may be to be sent
cdef QuicAssociation *next_ready(QuicTransport *t) noexcept nogil  # which is not ready then; or NULL
cdef void known(QuicAssociation *a) noexcept nogil                              # no stranger any more
cdef void up(QuicAssociation *a) noexcept nogil
cdef void fail(QuicAssociation *a, down_reason why) noexcept nogil  # down() comes out of the next flush()
cdef void set_due(QuicAssociation *a, uint64_t at) noexcept nogil
cdef void set_expiry(QuicAssociation *a) noexcept nogil
cdef void use_changed(QuicAssociation *a) noexcept nogil
cdef void is_due(QuicAssociation *a) noexcept nogil
cdef uint64_t patience(const QuicAssociation *a) noexcept nogil  # ns within which an answer comes, as a rule
cdef void doubt(QuicAssociation *a) noexcept nogil  # something says that nobody is there
cdef void hear(QuicAssociation *a) noexcept nogil
cdef void answered(QuicAssociation *a) noexcept nogil   # what it was asked
cdef void leave_ready(QuicTransport *t, QuicAssociation *a) noexcept nogil
