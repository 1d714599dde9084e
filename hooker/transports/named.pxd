# A transport that a user's class makes, in a process of its own. See named.pyx.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.flow.messages cimport Message
from hooker.transports.child cimport Child
from hooker.transports.contract cimport Association, PeerAddress, Transport
from hooker.transports.queues cimport Outgoing, QueueShared
from hooker.transports.sources cimport Source, SourceTable

cdef enum:
    NAMED_SLOTS = 1024         # associations
    NAME_MOST = 56             # bytes of a name

cdef enum named_state:
    NAMED_ASKING = 1           # greeted, and not answered yet
    NAMED_STRANGER             # has greeted, and said nothing else
    NAMED_UP
    NAMED_DEAD                 # in `dead`

cdef struct NamedAssociation:
    Association base
    PeerAddress peer
    uint32_t slot
    named_state state
    bint announced             # the engine knows it
    bint outgoing              # it has asked for it
    uint8_t why                # down_reason
    NamedAssociation *dead_next
    Outgoing out
    Source *source
    uint32_t holds
    uint64_t taken[3]          # by take_kind
    uint64_t due               # ns; UINT64_MAX: never
    uint64_t began
    uint64_t heard
    uint64_t idle_since        # 0: it is in use
    uint64_t asked             # when the newest PING left
    uint32_t pings             # that are not answered
    uint64_t cookie            # of our greeting
    uint64_t instance          # the peer's engine's
    uint64_t doubted           # when another engine has said to be there; 0: none has
    uint32_t tries             # greetings, then HELLOs
    bint has_said              # our engine its HELLO: `hello`
    bint has_heard             # the peer's
    Message hello
    uint64_t srtt, rttvar, min_rtt                      # ns; 0: not measured yet
    uint64_t bytes_sent, bytes_received, messages_received
    char function[NAME_MOST + 1]                        # of reliability, of one that is relayed

cdef struct NamedCounts:
    uint64_t connects, connects_failed, greeted, refused, evicted, other_names, unwanted, damaged, silent
    uint64_t packets_sent, packets_received, bytes_sent, bytes_received, failed
    uint64_t associations, held

cdef struct NamedTransport:
    Transport base
    void *handle               # what starts its process; alive as long as this is
    Child child
    bint relays                # the process has associations of its own, with peers that know nothing of it
    bint decides               # and a function of reliability of the user's, whose name is that of our HELLOs
    bint told                  # the engine knows that it has failed
    uint64_t dead_after        # ns
    uint64_t instance          # our engine's; 0: it has said nothing yet
    uint64_t now
    uint64_t next_due
    NamedAssociation *slots[1024]       # NAMED_SLOTS
    uint32_t top               # no slot from there on is used
    uint32_t turn              # whose it is to send
    uint32_t count
    uint32_t strangers
    NamedAssociation *dead
    QueueShared shared
    SourceTable sources
    uint64_t held_peak
    uint64_t second            # ns: of what follows
    uint32_t junk              # messages in it that nobody wants
    uint8_t hello[58]          # its options: NAME_MOST + 2
    NamedCounts n
    NamedCounts noted          # note()
