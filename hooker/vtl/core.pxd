# The structures of VTL and how they hang together. No functions but list links.
#
# Endpoint ── by connection id, by address ──► Assoc ── by stream id ──► Stream
#                                                    └─ all, in turn ──► Channel ──► Item ◄── packets on their way
# Lists are intrusive; an object is at most once in each, and leaves each without a walk: a peer decides how long
# they are. Nothing is freed inside a walk: what is
# finished goes to Endpoint.dead or Assoc.finished, and lifecycle.reap() frees it in the next vtl_build.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from hooker.includes.links cimport Link, LinkList
from hooker.includes.timers cimport timer, timer_heap
from hooker.vtl.aead cimport EVP_CIPHER_CTX, IV_SIZE, SECRET_SIZE, TAG_SIZE
from hooker.vtl.api cimport VTL_MAX_KEYS, vtl_addr, vtl_config, vtl_counters, vtl_sink
from hooker.vtl.controllers.interface cimport Congestion, congestion_ops
from hooker.vtl.credit cimport Credit
from hooker.vtl.ecn cimport Ecn
from hooker.vtl.fec cimport Fec
from hooker.vtl.pages cimport pages
from hooker.vtl.ranges cimport RangeSet
from hooker.vtl.reassembly cimport Reassembly
from hooker.vtl.recovery cimport Recovery
from hooker.vtl.reliability.interface cimport Limits, Reliability, reliability_ops
from hooker.vtl.sendbuf cimport SendBuf
from hooker.vtl.wire cimport CLOSE_BODY


cdef enum stream_flag:
    S_LOCAL = 1 << 0           # we opened it
    S_ANNOUNCED = 1 << 1       # the engine knows it: ours, or opened() was called
    S_ACCEPTED = 1 << 2
    S_CONFIRMED = 1 << 3       # the opener is engaged
    S_COMMITTED = 1 << 4
    S_OPEN_SENT = 1 << 5       # OPEN left at least once
    S_DEAD = 1 << 6            # reset, rejected or cancelled: no callback but closed()
    S_FIN_QUEUED = 1 << 7
    S_FIN_SENT = 1 << 8
    S_FIN_ACKED = 1 << 9
    S_SEND_DONE = 1 << 10      # nothing more from us: FIN or RESET (CANCEL, REJECT) acknowledged
    S_FIN_KNOWN = 1 << 11      # the peer's final size is known
    S_RECV_DONE = 1 << 12      # nothing more from the peer
    S_ENDED = 1 << 13          # RESET, CANCEL or REJECT of ours ends our direction
    S_FINISHED = 1 << 14       # in Assoc.finished

cdef enum stream_pending:      # control frames to send
    P_OPEN = 1 << 0
    P_OPEN_ACK = 1 << 1
    P_REJECT = 1 << 2
    P_CONFIRM = 1 << 3
    P_CANCEL = 1 << 4
    P_RESET = 1 << 5
    P_WINDOW = 1 << 6

cdef enum assoc_state:
    A_INIT = 0                 # INIT sent, no cookie yet
    A_COOKIE = 1               # INIT with cookie sent: frames may follow it, stream data may not
    A_UP = 2
    A_DEAD = 3                 # in Endpoint.dead

cdef enum:
    REJECT_UNPROVEN = 0x10009  # rejected(): who accepts has not seen the handshake

cdef enum:
    MAX_ASSOCS = 1 << 16       # of one endpoint
    MAX_PER_PEER = 16          # associations with one address and port, and one of ours, that the peer began
    MAX_OF_PEER = 256          # with one address and port, and all of ours
    MAX_STREAMS = 1 << 17      # of one association
    MAX_CHANNELS = 1 << 17     # of one association
    MAX_ID_RANGES = 256        # gaps in the stream ids a peer used
    MAX_ACK_RANGES = 64        # received ranges remembered, and the most an ACK carries
    MAX_SPARE = 16384          # items
    STATELESS_SLOTS = 2048     # answers waiting for the next vtl_build: for as many datagrams as a carrier gives at once
    COOKIE_BITS = 1 << 20      # of a Bloom filter of the cookies used: each makes one association
    BEGIN_SLOTS = 1024         # of the rate limit of associations, by source


cdef struct Stream:
    Assoc *assoc
    uint32_t id
    uint32_t flags             # stream_flag
    uint32_t pending           # stream_pending
    uint32_t owed              # P_OPEN_ACK, P_CONFIRM: without them the peer gets no further
    uint32_t code              # of our RESET or REJECT
    void *user
    Stream *bucket             # hash chain
    Stream *prev               # all streams of the association
    Stream *next
    Stream *next_active        # has data to send
    Stream *prev_active
    Stream *next_ctrl          # has control frames to send
    Stream *prev_ctrl
    Stream *next_acked         # prefix moved during this ACK
    Stream *next_finished
    bint in_active, in_blocked, in_ctrl, in_acked
    uint32_t quantum           # datagrams left in its turn
    uint64_t locator           # of the flow, and what proves that one has seen its handshake
    uint64_t key[2]
    SendBuf out
    uint64_t send_max          # the peer's MAX_STREAM_DATA
    Reassembly in_
    uint64_t recv_high         # highest offset received
    uint64_t recv_max          # what we advertised
    uint64_t consumed          # by the engine
    Credit credit
    uint64_t final_size        # with S_FIN_KNOWN
    uint64_t held              # bytes of the budget
    uint64_t untaken           # bytes given to the engine, not consumed yet
    bint undecided             # the peer's; neither accepted nor refused yet


cdef struct StreamList:
    Stream *first
    Stream *last


cdef enum item_kind:
    I_BLOCK = 0
    I_MESSAGE = 1              # its bytes follow it
    I_REPORT = 2               # in a packet; what it said does not matter any more
    I_HOLE = 3                 # bytes of blocks that were given up

cdef struct Item:              # what travels together and is repeated until it is acknowledged
    Item *prev                 # a ring of those in one list
    Item *next
    Item **list                # which one
    Channel *channel           # NULL: the association's own, or nobody's any more
    const uint8_t *data
    void *owner                # of a block's bytes
    uint32_t id                # of the block; of a report: its number
    uint32_t position, n
    uint32_t on_way            # packets that carry it, neither acknowledged nor lost
    uint8_t kind               # item_kind
    uint8_t epoch, flags
    uint8_t repeats            # how often it went again, at most MANY - 1; only where blocks are given up, as …
    uint32_t left_at           # … ms, when it first left


cdef struct Channel:
    Assoc *assoc               # NULL: it is down
    Channel *prev              # all of the association; those that are down, of the endpoint
    Channel *next
    Link busy                  # in its association's list: it has blocks to send
    Link talking               # it has control messages or a report to send
    Channel **down_at          # while it is down, the list it is in
    void *user
    Item *again                # lost blocks, by position
    Item *fresh                # blocks never sent
    Item *words                # control messages to send
    Item *flight               # all that is on its way
    uint32_t waiting, unacked  # bytes of blocks: in `again` and `fresh`; those on their way, too
    uint32_t held              # bytes of the latter and of their records
    int32_t credit             # bytes left in its turn
    uint32_t reports           # composed so far
    uint16_t said              # control messages not acknowledged
    uint8_t report_due
    uint8_t has_top, top_epoch # where blocks are given up:
    uint32_t top_id, top       # the position behind the highest byte that the peer has, of such blocks


cdef struct OtherPath:         # an address of the peer's beside the one in use; port 0: none
    vtl_addr to
    bint proven                # it answered a challenge, or was in use before
    bint due                   # a PATH_CHALLENGE is to be sent
    uint32_t tries             # challenges sent
    uint64_t challenge
    uint64_t since, sent_at, next   # ns: first sight, last challenge, next deadline (0: none)
    uint64_t newest            # highest packet number from there
    uint64_t received, sent    # bytes, for the limit of RFC 9000 8.1


cdef struct PathAnswer:        # a PATH_RESPONSE to be sent
    bint due
    vtl_addr to
    uint64_t data
    uint32_t size              # of the datagram with the challenge


cdef enum pmtu_state:         # RFC 8899 5.2
    PMTU_BASE = 0
    PMTU_SEARCHING = 1
    PMTU_COMPLETE = 2
    PMTU_ERROR = 3

cdef struct Pmtu:              # the search for the path's datagram size; the size in use is Assoc.max_datagram
    uint8_t state              # pmtu_state
    bint on_its_way            # a probe
    uint32_t probe             # bytes, the size in question; 0: none
    uint32_t tries             # probes of that size that were lost
    uint32_t refused           # bytes, the least size that did not pass; 0: none
    uint32_t most              # bytes, what the search may reach
    uint32_t sent, holes       # probes, black holes
    uint64_t at                # ns, next deadline; 0: none


cdef struct Psk:               # a pre-shared key, extracted, and what signs the handshake
    uint8_t secret[SECRET_SIZE]
    uint8_t handshake[SECRET_SIZE]


cdef struct Phase:             # the keys of one direction, until they are updated
    EVP_CIPHER_CTX *ctx
    uint8_t secret[SECRET_SIZE]
    uint8_t iv[IV_SIZE]


cdef struct Keys:
    uint32_t cipher
    Phase tx
    Phase rx[3]                # the phase before, the present one, the next
    uint8_t tx_phase, rx_phase
    uint64_t tx_since, rx_since     # lowest packet numbers of the present phases
    uint64_t old_until         # ns; then the phase before is of no more use
    uint64_t forged            # packets
    uint32_t updates


cdef struct Source:            # an IPv4 address or an IPv6 /64, and what its associations make us hold
    uint8_t prefix[16]
    Source *next               # hash chain
    uint32_t assocs
    uint32_t strangers         # of them
    uint32_t undecided         # streams
    uint64_t held              # bytes
    uint64_t taken[3]          # VTL_TAKES: what the engine holds for it
    Assoc *oldest              # of the strangers
    Assoc *newest


cdef struct Assoc:
    timer due                  # first: the heap's timers are associations
    Endpoint *ep
    Source *source
    uint64_t held              # bytes of the budget
    uint64_t rings_held, fec_held   # of them
    uint64_t taken[3]          # VTL_TAKES
    uint32_t undecided         # streams
    bint stranger              # the peer began it, and no flow of it was accepted yet
    Assoc *next_stranger
    Assoc *prev_stranger
    Assoc *next_source         # strangers of its source
    Assoc *prev_source
    uint64_t hinted_at         # ns: an ICMP error that proves nothing made us ask
    Keys *keys                 # NULL: plain
    uint32_t psk               # which of the endpoint's pre-shared keys
    void *user
    vtl_addr peer
    uint64_t cid               # ours: what the peer addresses
    uint64_t peer_cid
    assoc_state state
    bint initiator
    uint32_t down_reason
    bint closed_by_peer
    bint announced             # assoc_up() was called
    uint32_t restarts
    Assoc *by_cid              # hash chains
    Assoc *by_addr
    Assoc *prev                # all
    Assoc *next
    Assoc *next_ready          # may have something to send
    Assoc *prev_ready
    Assoc *next_dirty          # deadline to be computed anew
    Assoc **dirty_at           # what points to it
    Assoc *next_dead
    Assoc *next_unfinished
    Assoc **unfinished_at      # what points to it
    bint in_ready, in_dirty, in_unfinished
    # handshake
    uint64_t cookie_cid, cookie_time, cookie_mac
    uint64_t hs_started, hs_sent_at, hs_next
    uint32_t hs_tries          # since the last progress
    uint32_t hs_total
    bint hs_send               # INIT or INIT_ACK is due
    uint32_t hs_size           # pad to this
    uint32_t max_datagram      # the path carries that
    uint32_t version           # agreed on; 0: not yet
    uint32_t hs_refused        # answers that named another version than they had to
    bint surplus               # the peer and we connected at the same time; the other one stays
    Pmtu pmtu
    # address changes
    OtherPath other
    PathAnswer answer
    uint32_t moves
    uint64_t up_at             # ns
    uint64_t first_up_pn       # packet numbers below went out before the responder was known to be there
    # receive side
    RangeSet received          # packet numbers
    uint64_t received_floor    # below: duplicate
    uint64_t arriving          # the number of the packet in hand
    uint64_t largest_at        # when the largest arrived, ns
    uint32_t unacked, urgent   # ack-eliciting packets since our last ACK; those with more than messages
    uint32_t frames_seen       # in the packet received last, a bit for each type
    bint ack_now
    uint64_t ack_deadline      # 0: none
    uint64_t recv_total, recv_max, consumed   # flow control, all streams
    Credit credit
    bint window_due
    RangeSet used_ids          # stream ids >> 1 the peer has opened
    # send side
    Recovery rec
    Reliability rel            # selective-repeat until it is up
    const reliability_ops *wanted    # what we asked for, or have agreed to
    Congestion cc
    Ecn ecn
    Fec fec
    uint32_t probes            # datagrams that may ignore the window
    bint ping_due
    uint64_t send_total, send_max, peer_stream_window
    double tokens              # pacing, bytes
    uint64_t tokens_at, pace_until   # ns
    StreamList active, blocked, ctrl, acked, finished
    # streams
    Stream **table
    uint32_t table_cap, streams, next_id
    Stream *all
    # channels
    Channel *channels
    uint32_t n_channels
    uint32_t holds             # flows of the engine's that rely on it and have no channel now
    LinkList busy, talking
    Item *words                # its own control messages to send
    Item *words_out            # on their way
    uint32_t said              # of both
    uint64_t waiting           # bytes of blocks in all channels, not sent, or lost
    Item *done                 # blocks whose bytes are to be given back
    Item *orphans              # nobody's; packets on their way name them
    # liveness
    uint64_t last_recv         # ns
    uint64_t unanswered        # first ack-eliciting packet since last_recv, ns; 0: none
    uint64_t idle_since        # no streams and channels since, ns; 0: has some
    uint32_t doubt             # what it is down by if it cannot
    uint64_t prove_by, prove_ping   # after a path error, ns; 0: no doubt
    uint64_t packets_received, bytes_sent, bytes_received
    uint64_t stream_sent, stream_again, stream_received
    uint64_t given_up, missing # bytes of ours and of the peer's


cdef struct Stateless:         # an answer that needs no association
    vtl_addr to
    uint8_t type
    uint64_t dcid
    uint64_t number
    uint32_t psk               # signs a cookie
    uint64_t at                # coarse time of a cookie
    uint8_t close[CLOSE_BODY + TAG_SIZE]    # body of a CLOSE
    uint32_t close_n
    uint8_t phase              # of the keys that encrypted it


cdef struct RateLimit:         # a token bucket
    double tokens
    uint64_t at                # ns


cdef struct Endpoint:
    vtl_config cfg
    vtl_sink sink
    const congestion_ops *congestion   # of all its associations, also when the name was taken back
    const reliability_ops *reliability # of those it begins
    const reliability_ops *plain       # selective-repeat
    Limits limits
    uint64_t secret[2]
    Psk psk[VTL_MAX_KEYS]
    uint64_t drops[16]
    vtl_counters count
    const vtl_addr *source     # of the datagram in hand
    uint32_t source_size
    uint8_t source_ecn         # its two bits
    Assoc **cid_table
    Assoc **addr_table
    uint32_t table_cap, assocs
    Assoc *last                # of the previous datagram
    Assoc *all
    Assoc *ready_first
    Assoc *ready_last
    Assoc *dirty
    Assoc *dead
    Assoc *unfinished          # their Assoc.finished or Assoc.done is not empty
    Channel *down              # channels without an association; the engine has not closed them yet
    pages channels             # memory of all channels
    uint32_t spares
    uint64_t now               # of the call in progress, ns
    uint64_t windows_grown     # bytes, of vtl_config.window_budget
    uint64_t budget, held, strangers_held, held_peak   # bytes
    uint32_t strangers, undecided
    uint32_t sources[2]        # that have associations of use; that have strangers
    uint64_t fair_share[2]     # bytes
    Assoc *oldest_stranger
    Assoc *newest_stranger
    Source **source_table
    uint32_t source_cap
    uint64_t scatter           # odd; what peers choose is multiplied with it before it chooses a bucket
    uint64_t skipped           # ns of the caller's clock that do not count: we did not run
    timer_heap timers
    Stateless answer[STATELESS_SLOTS]
    uint32_t answers
    uint64_t *cookies_used[2]  # filters, of the present generation of cookies and the one before
    uint64_t cookies_of[2]     # which generations
    RateLimit begin[BEGIN_SLOTS]
    double reset_tokens        # rate limit of stateless resets
    uint64_t reset_at
    uint8_t *zeros             # padding
    Item *spare[MAX_SPARE]     # items kept for the next ones; the last that came goes first


cdef inline void assoc_touch(Assoc *a) noexcept nogil:
    """Its deadline may have changed."""
    if not a.in_dirty:
        a.in_dirty = True
        a.next_dirty = a.ep.dirty
        a.dirty_at = &a.ep.dirty
        if a.next_dirty != NULL:
            a.next_dirty.dirty_at = &a.next_dirty
        a.ep.dirty = a

cdef inline void assoc_ready(Assoc *a) noexcept nogil:
    """It may have something to send."""
    cdef Endpoint *ep = a.ep
    assoc_touch(a)
    if a.in_ready or a.state == A_DEAD:
        return
    a.in_ready = True
    a.next_ready = NULL
    a.prev_ready = ep.ready_last
    if ep.ready_last == NULL:
        ep.ready_first = a
    else:
        ep.ready_last.next_ready = a
    ep.ready_last = a

cdef inline void unready(Assoc *a) noexcept nogil:
    """Out of the list of those that may have something to send."""
    cdef Endpoint *ep = a.ep
    a.in_ready = False
    if a.prev_ready != NULL:
        a.prev_ready.next_ready = a.next_ready
    else:
        ep.ready_first = a.next_ready
    if a.next_ready != NULL:
        a.next_ready.prev_ready = a.prev_ready
    else:
        ep.ready_last = a.prev_ready

cdef inline void assoc_unfinished(Assoc *a) noexcept nogil:
    """The next reap() has to end or give back something of it."""
    if not a.in_unfinished:
        a.in_unfinished = True
        a.next_unfinished = a.ep.unfinished
        a.unfinished_at = &a.ep.unfinished
        if a.next_unfinished != NULL:
            a.next_unfinished.unfinished_at = &a.next_unfinished
        a.ep.unfinished = a

cdef inline bint assoc_in_use(const Assoc *a) noexcept nogil:
    """Flows rely on it: it is kept alive."""
    return a.streams > 0 or a.n_channels > 0 or a.holds > 0

cdef inline void assoc_fail(Assoc *a, uint32_t reason) noexcept nogil:
    if a.state != A_DEAD:
        a.state = A_DEAD
        a.down_reason = reason
        a.next_dead = a.ep.dead
        a.ep.dead = a
