# An association that is one connection of the kernel's, and what a transport of such consists of. See
# connection.pyx; what protocols do each in their own way is in a ConnectionKind.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.transports.contract cimport Association, PeerAddress, Transport, down_reason
from hooker.transports.failed cimport FailedTable
from hooker.transports.queues cimport Outgoing, QueueShared
from hooker.transports.sources cimport Source, SourceTable

cdef enum:
    SLOTS = 2048               # associations

cdef enum connection_state:
    CONN_PAUSING = 1           # nobody has answered there: the next try is put off
    CONN_CONNECTING
    CONN_STRANGER              # the peer has connected, and said no HELLO yet
    CONN_UP
    CONN_DEAD                  # in `dead`

cdef struct ConnectionTransport
cdef struct Connection

cdef struct ConnectionRow:     # what stats() writes
    uint64_t srtt_ns, rttvar_ns, min_rtt_ns, cwnd, bytes_in_flight, packets_lost
    uint64_t bytes_sent, bytes_received, messages_received, waiting
    uint32_t streams, up, channels, fallback, outgoing

cdef struct ConnectionKind:    # a protocol of the kernel's
    void (*set_up)(ConnectionTransport *t, int fd) noexcept nogil     # a new socket; listeners, too
    bint (*choose_source)(Connection *a) noexcept nogil     # before it connects; False: no way leads there
    void (*came_up)(Connection *a) noexcept nogil
    bint (*receive)(Connection *a) noexcept nogil           # a batch; whether there may be more
    void (*send)(Connection *a) noexcept nogil              # a batch of what waits
    void (*give_up)(Connection *a) noexcept nogil           # what the kernel has of it is void
    uint64_t (*patience)(const Connection *a) noexcept nogil       # as in TransportOps
    void (*measure)(const Connection *a, ConnectionRow *row) noexcept nogil       # what the kernel knows

cdef struct Connection:
    Association base
    PeerAddress peer
    int fd                     # -1: none
    uint32_t slot
    connection_state state
    bint outgoing              # we have connected
    bint announced             # the engine knows it
    bint in_ready
    bint blocked               # the kernel has enough of it; EPOLLOUT says when not
    uint8_t why                # down_reason
    Connection *ready_next
    Connection *dead_next
    Outgoing out
    Source *source
    uint32_t holds
    uint64_t taken[3]          # by take_kind
    uint64_t due               # ns; UINT64_MAX: never
    uint64_t began
    uint64_t heard
    uint64_t asked             # since when a PING is unanswered; 0: none is
    uint64_t idle_since        # 0: it is in use
    uint8_t *partial           # what is not here as a whole (partial.pxd)
    uint32_t partial_n
    uint32_t partial_room      # counted as the source's
    uint8_t *unsent            # what the kernel has not taken, the end of a batch
    uint32_t unsent_at
    uint32_t unsent_n
    uint64_t patience          # ns, of the moment patience_at
    uint64_t patience_at
    uint64_t since_look        # bytes sent since the kernel was asked how much it has
    uint64_t bytes_sent, bytes_received, messages_received

cdef struct ConnectionCounts:
    uint64_t accepted, refused, evicted, connects, connects_failed, broken, fallbacks, over_budget
    uint64_t bytes_sent, bytes_received, send_calls, recv_calls
    uint64_t associations, held

cdef struct ConnectionTransport:
    Transport base
    const ConnectionKind *kind
    int protocol
    uint64_t dead_after        # ns
    int listener[2]            # IPv4, IPv6; -1: none
    bint listening             # they are in epoll
    uint64_t listen_again      # ns
    uint64_t now
    uint64_t next_due
    Connection *slots[2048]    # SLOTS
    uint32_t top               # no slot from there on is used
    uint32_t count
    uint32_t strangers
    Connection *ready_first
    Connection *ready_last
    Connection *dead
    FailedTable failed
    QueueShared shared
    SourceTable sources
    uint8_t *rx                # what one read takes, of the kind's size
    uint64_t held_peak
    uint8_t hello[34]          # its options
    ConnectionCounts n
    ConnectionCounts noted     # note()


cdef inline ConnectionTransport *of(const Connection *a) noexcept nogil:
    return <ConnectionTransport *>a.base.t

cdef inline bint in_use(const Connection *a) noexcept nogil:
    return a.out.channels > 0 or a.holds > 0

# ---- its life
# NULL: no memory, or too many
cdef Connection *connection_new(ConnectionTransport *t, const PeerAddress *peer) noexcept nogil
cdef void connection_free(ConnectionTransport *t, Connection *a) noexcept nogil
cdef void start(Connection *a) noexcept nogil              # connects
cdef void connected(Connection *a) noexcept nogil          # or not
cdef void fail(Connection *a, down_reason why) noexcept nogil      # assoc_down() comes with flush()
cdef down_reason why_of(int error) noexcept nogil
cdef void close_fd(Connection *a) noexcept nogil
cdef void will_abort(Connection *a) noexcept nogil         # its close(): what the kernel has yet is void
# ---- in and out
cdef void heard_of(Connection *a, uint64_t n) noexcept nogil       # so many bytes have come
cdef void take_message(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil
cdef void make_ready(Connection *a) noexcept nogil         # there is something to send
cdef void leave_ready(Connection *a) noexcept nogil
cdef void block(Connection *a) noexcept nogil
cdef void unblock(Connection *a) noexcept nogil
cdef void sent(Connection *a, uint64_t n) noexcept nogil
# ns until what the kernel has is gone, a window each round trip; bounded, for in an outage windows collapse
cdef uint64_t queue_time(uint64_t queued, uint64_t window, uint64_t srtt) noexcept nogil
# ---- time
cdef void set_due(Connection *a, uint64_t at) noexcept nogil
cdef void use_changed(Connection *a) noexcept nogil
cdef void is_due(Connection *a) noexcept nogil
