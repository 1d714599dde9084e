# A transport over connections of the kernel's. See stream.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.transports.contract cimport Association, PeerAddress, Transport
from hooker.transports.queues cimport Outgoing, QueueShared
from hooker.transports.sources cimport Source, SourceTable

cdef enum:
    SLOTS = 2048               # associations
    FAILED = 64                # addresses that are remembered, where nobody has answered

cdef enum stream_state:
    STREAM_PAUSING = 1         # nobody has answered there: the next try is put off
    STREAM_CONNECTING
    STREAM_STRANGER            # the peer has connected, and said no HELLO yet
    STREAM_UP
    STREAM_DEAD                # in `dead`

cdef struct StreamAssociation:
    Association base
    PeerAddress peer
    int fd                     # -1: none
    uint32_t slot
    stream_state state
    bint outgoing              # we have connected
    bint announced             # the engine knows it
    bint in_ready
    bint blocked               # the kernel has enough of it; EPOLLOUT says when not
    uint8_t why                # down_reason
    StreamAssociation *ready_next
    StreamAssociation *dead_next
    Outgoing out
    Source *source
    uint32_t holds
    uint64_t taken[3]          # by take_kind
    uint64_t due               # ns; UINT64_MAX: never
    uint64_t began
    uint64_t heard
    uint64_t asked             # since when a PING is unanswered; 0: none is
    uint64_t idle_since        # 0: it is in use
    uint8_t *partial           # a frame that is not here as a whole
    uint32_t partial_n
    uint32_t partial_room      # counted as the source's
    uint8_t *unsent            # what the kernel has not taken, the end of a batch
    uint32_t unsent_at
    uint32_t unsent_n
    uint64_t patience          # ns, of the moment patience_at
    uint64_t patience_at
    uint64_t since_look        # bytes sent since the kernel was asked how much it has
    uint64_t bytes_sent, bytes_received, messages_received

cdef struct Failed:
    PeerAddress peer
    uint64_t until             # ns
    uint8_t pauses             # 0: nobody's

cdef struct StreamCounts:
    uint64_t accepted, refused, evicted, connects, connects_failed, broken, fallbacks, over_budget
    uint64_t bytes_sent, bytes_received, send_calls, recv_calls
    uint64_t associations, held

cdef struct StreamTransport:
    Transport base
    int protocol
    uint64_t dead_after        # ns
    int listener[2]            # IPv4, IPv6; -1: none
    bint listening             # they are in epoll
    uint64_t listen_again      # ns
    uint64_t now
    uint64_t next_due
    StreamAssociation *slots[2048]      # SLOTS
    uint32_t top               # no slot from there on is used
    uint32_t count
    uint32_t strangers
    StreamAssociation *ready_first
    StreamAssociation *ready_last
    StreamAssociation *dead
    Failed failed[64]          # FAILED
    uint64_t key[2]            # of that table
    QueueShared shared
    SourceTable sources
    uint8_t *rx
    uint64_t held_peak
    uint8_t hello[34]          # its options
    StreamCounts n
    StreamCounts noted         # note()
