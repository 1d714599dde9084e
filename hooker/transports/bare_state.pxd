# A bare transport: messages of the flow protocol in datagrams, as they are. See bare.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.carriers.contract cimport Carrier
from hooker.includes.links cimport Link, LinkList
from hooker.includes.timers cimport timer, timer_heap
from hooker.transports.contract cimport Association, Transport
from hooker.transports.bare_wire cimport Own
from hooker.transports.queues cimport Outgoing, QueueShared
from hooker.transports.sources cimport Source, SourceTable
from hooker.vtl.api cimport vtl_addr, vtl_batch

cdef enum:
    MAX_ASSOCS = 2048
    CHAINS = 1024
    REACHES = 8                # whose time of sending is remembered
    ANSWERS = 256              # to strangers, in one round
    LEAST_MTU = 1280           # bytes; RFC 8200 5: what each path has to carry

cdef enum bare_state:
    BARE_ASKING = 1            # for a cookie, then for the association
    BARE_UP
    BARE_DEAD                  # in `dead`

cdef struct Reach:             # that is on its way
    uint32_t number
    uint16_t size              # bytes of its datagram
    uint64_t at                # ns; 0: none

cdef struct BareAssociation:
    Association base
    vtl_addr to                # the peer, and which of our addresses it hears from
    timer due
    uint64_t own               # tokens: ours, the peer's
    uint64_t other
    uint64_t instance          # the peer's
    bare_state state
    bint outgoing              # we have begun
    bint announced             # the engine knows it
    bint last_words            # dead: what was said, and END, are to be sent yet
    bint ask_due, welcome_due, end_due
    uint8_t why                # down_reason
    uint8_t tries
    BareAssociation *next_by_token
    BareAssociation *next_by_peer
    Link one                   # of all there are
    Link ready                 # of those with something to send
    Link dead
    Link idle                  # of those that are up and unused
    Outgoing out
    Source *source
    uint32_t holds
    uint64_t taken[3]          # by take_kind
    uint64_t began
    uint64_t heard
    uint64_t asked             # since when a REACH is unanswered; 0: none is
    uint64_t refused           # an ICMP error has come since then
    uint64_t idle_since
    uint32_t cookie_time
    uint64_t cookie            # 0: none yet
    uint8_t hello[96]          # MAX_CONTROL: what we say first, until the peer has it
    uint32_t hello_n
    bint greeted               # the peer has it
    bint hello_heard           # we have the peer's
    bint reach_due             # a small one, which is in time for everything but sizes
    bint probe_due             # one as large as the link takes
    Own reached[4]             # answers to the peer's REACHes
    uint32_t reached_n
    uint32_t number            # of the last REACH
    Reach reaches[8]           # REACHES
    uint32_t base_size         # bytes of a datagram, that each path carries
    uint32_t most              # … that our own link carries
    uint32_t size              # … that we send now
    uint8_t unanswered         # probes of `most`, in a row
    bint large_used            # since the last probe something was sent that only `size` allows
    bint base_due              # a REACH of `base_size`
    uint64_t base_asked        # when the last one left that is not answered; 0: none is
    uint8_t base_unanswered    # after how many in a row something else was heard
    bint base_used             # since the last one something was sent that is not small
    uint64_t probe_again       # ns; a size that the path did not carry is not tried before
    uint64_t srtt, rttvar, min_rtt
    uint64_t datagrams_sent, datagrams_received, bytes_sent, bytes_received, messages_received
    uint32_t holes             # times that the path no longer carried a size

cdef struct Answer:
    vtl_addr to
    uint8_t bytes[48]          # SHAKE_SIZE
    uint32_t n

cdef struct BareCounts:
    uint64_t asked, welcomed, refused, evicted, unanswered, unknown, elsewhere, malformed, unproven_errors
    uint64_t connects, connects_failed
    uint64_t associations, held

cdef struct Bare:              # of a transport, without its sockets
    Transport *base
    uint64_t instance
    uint64_t secret[2]         # of cookies
    uint64_t scatter[2]        # of by_peer
    uint64_t dead_after        # ns
    uint32_t first             # bytes of a datagram over IPv4 that our links carry
    uint32_t least             # … that each path carries
    bint ports                 # the carrier's addresses have any
    uint64_t now
    timer_heap timers
    BareAssociation *by_token[1024]     # CHAINS
    BareAssociation *by_peer[1024]
    LinkList all
    LinkList ready
    LinkList dead
    LinkList idle              # for longest the first
    uint32_t count
    QueueShared shared
    SourceTable sources
    Answer *answers            # ANSWERS
    uint32_t answers_n
    uint64_t held_peak
    BareCounts n

cdef struct BareNoted:         # note()
    BareCounts core
    uint64_t send_calls, recv_calls, send_errors, sent, received, damaged, refused
    bint trains

cdef struct BareTransport:
    Transport base
    Bare core
    Carrier *carrier
    uint8_t options[64]
    vtl_batch batch
    uint32_t batch_at          # datagrams of the batch already sent
    BareNoted noted


cdef inline Bare *bare_of(const BareAssociation *a) noexcept nogil:
    return &(<BareTransport *>a.base.t).core

cdef inline bint is_in_use(const BareAssociation *a) noexcept nogil:
    return a.out.channels > 0 or a.holds > 0
