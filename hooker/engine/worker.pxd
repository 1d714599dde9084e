# The state of one worker, and of its flows. Plain C: the loop runs without the GIL.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.engine.frames cimport frame_entry, frame_parser
from hooker.engine.lock cimport worker_lock
from hooker.engine.polling cimport poller
from hooker.engine.ringbuf cimport ring_reader
from hooker.engine.cells cimport cell, cell_room
from hooker.engine.places cimport place_room
from hooker.engine.slab cimport slab, slab_pool
from hooker.includes.timers cimport timer, timer_heap
from hooker.flow.joined cimport Joined, Turns
from hooker.flow.machine cimport Flow, FlowConfig
from hooker.flow.proof cimport FLOW_KEY_SIZE, MAX_BINDING
from hooker.flow.sender cimport SenderPool
from hooker.includes.hk cimport hk_key, hk_redirect, hk_flow
from hooker.includes.linux cimport iovec
from hooker.tcp.twin cimport twin
from hooker.engine.tun cimport tun_counters
from hooker.transports.contract cimport Association, Channel, Transport

cdef enum:
    NOTICES = 16384            # events waiting for Python; a power of two
    PEERS = 4096               # associations that people are shown
    RUNS = 256                 # flows whose blocks are gathered at a time
    PARTS = 64                 # blocks of one run
    EARLY = 4096               # OPENs that came before their flow; a power of two
    STASH = 4096               # cells for DATA that its flow cannot take yet
    STASH_SERVER = 16          # of one flow: what may be sent before an ACCEPT
    STASH_CLIENT = 64          # and before it arrives: a TCP's first window
    BURST = 64                 # segments that a warm service's socket begins with
    CUTS = 256                 # services that are remembered as cut off
    AWAITED = 1024             # sockets of which a segment is awaited, by their ports; a power of two
    CLOSED_MOST = 16384        # closed flows that are remembered
    KEPT = 4096                # copies of segments that are under way
    TRANSPORTS = 16            # of an engine
    FRAMES = 1024              # of the redirect socket that are parsed at a time

cdef enum why:                 # why a flow is on TCP or has ended: flow_reason, and from 32 on what only the engine knows
    WHY_NO_ENGINE = 32         # nobody answers at the peer's port
    WHY_KEY                    # one engine has no key, or another one
    WHY_VERSION                # no version of the transport is common
    WHY_MEMORY
    WHY_STEERED                # the application chooses a route
    WHY_HOLD                   # held for as long as it may be
    WHY_DEVICE                 # hk0 was removed
    WHY_FRAMES                 # the redirect socket's framing is lost
    WHY_LANE                   # nothing gets to hk0, or from it
    WHY_SIGNED                 # the application has keys to sign segments with
    WHY_REPAIR                 # its socket is taken apart
    WHY_FUNCTION               # its client's association gives bytes up, which its rule here does not let it
    WHY_ADDRESS                # its client asks from an address that is not the connection's, where that matters
    WHY_ENDED                  # closed or reset, by either end, before both engines had agreed
    WHY_PROTOTYPE              # a user's class that carried it, or would have, has failed
    WHY_NAME                   # the peer's engine has another class of a user's
    WHY_STOOD                  # this engine stood still for seconds, and its kernel program has given the socket back
    WHYS

cdef enum notice_kind:
    N_OPENED = 1
    N_ENGAGED = 2
    N_RELEASED = 3
    N_CLOSED = 4
    N_PEER_UP = 5
    N_PEER_DOWN = 6
    N_LANE_BLOCKED = 7
    N_LANE_OPEN = 8
    N_LANE_RESTORED = 10
    N_TRANSPORT_FAILED = 12    # `state`: its index
    N_HOLE = 11                # bytes_out: its position, bytes_in: its length

cdef enum shown_as:            # states, as Python has them (hooker.events.State)
    SHOWN_HELD = 1             # on its way
    SHOWN_ENGAGED = 2
    SHOWN_RELEASED = 3         # on TCP

cdef enum lane_state:
    LANE_OFF = 0
    LANE_RESTING               # nobody needs it, and its rule is not there perhaps
    LANE_TRYING                # a connection begins
    LANE_OPEN                  # it is there, and rests
    LANE_ASKED                 # a byte of it is under way
    LANE_WAITING               # for the next try

cdef enum chain:               # what flows are found by
    BY_TUPLE                   # of a segment's addresses and ports
    BY_TOKEN                   # ours: what the peer writes to us
    BY_PEER_TOKEN              # the peer's: what its LEAVE quotes
    BY_LOCATOR                 # a server's: what OPEN says
    CHAINS

cdef enum flow_bit:
    F_TWIN = 1 << 0            # its twin has begun, in this epoch, and it is not at rest
    F_ENGAGED = 1 << 1         # has been
    F_ASKED = 1 << 2           # the local TCP waits for an answer to its probe
    F_WANTED = 1 << 3          # client: to be engaged when its peer's engine is there
    F_SOCKET_GONE = 1 << 4     # the kernel's socket is, and the slot given back
    F_DIRTY = 1 << 5           # in worker.dirty
    F_STEERED = 1 << 6
    F_FORGET = 1 << 7          # over: freed between rounds
    F_PEER_INDEXED = 1 << 8    # in BY_PEER_TOKEN
    F_CLOSING = 1 << 9         # in worker.closing
    F_CLOSED = 1 << 10         # in the list of closed flows
    F_HELD = 1 << 11           # the kernel keeps its payload back, and it may still go to TCP
    F_NEVER = 1 << 12          # TCP's for good
    F_TRAIL = 1 << 13          # the wire is shown where it stands
    F_TRAIL_DUE = 1 << 14      # in worker.trail_due
    F_EARLY = 1 << 15          # began marked, its service being warm

cdef enum start_bit:            # of clients (starts.pyx)
    START_WAITS = 1 << 0       # in worker.waiting
    START_COUNTS = 1 << 1      # in worker.starting

cdef enum unmark_state:
    UNMARK_NOT = 0
    UNMARK_LISTED              # in worker.unmark_first, and its mark stays
    UNMARK_WAITS               # in that list, and its mark goes

cdef enum again_state:         # of the ports of a connection that ends (again.pyx)
    AGAIN_NOT = 0
    AGAIN_HERE                 # this host's next connection has begun
    AGAIN_THERE                # the peer's, or so it says
    AGAIN_OVER                 # its socket was in LAST_ACK, and is gone: a next one has nothing to ask

cdef enum redirected_bit:
    R_ALLOWED = 1 << 0         # its messages may come by the redirect socket
    R_DUE = 1 << 1             # in worker.senders

cdef struct flow
cdef struct peer
cdef struct redirected
cdef struct account
cdef struct stretch
cdef struct early_open
cdef struct lot

cdef struct ends:              # of a connection, as in its packets
    uint8_t local[16]
    uint8_t remote[16]
    uint16_t local_port
    uint16_t remote_port
    uint8_t version
    uint8_t zero

cdef struct active:            # of a flow that is not at rest (rest.pyx)
    twin t                     # begun: F_TWIN
    flow *dirty_next           # of those to which an ACK may be due, or of those that wait for their turn
    flow *unmark_next
    stretch *gather            # blocks of this batch
    cell *kept                 # a segment under way; NULL: none
    cell *stash                # DATA that it cannot take yet: the last cell, which the first one follows
    uint64_t unmark_at         # ns: its segments go by the wire when hk0 has been read to there
    uint64_t armed_ns          # since when a segment of it is awaited
    uint8_t stashed            # cells
    uint8_t heard              # a segment has come out of hk0 while it was held
    uint8_t acks_again         # how often a held client's socket was asked for its handshake's last ACK

cdef struct flow:
    timer due                  # first: the heap's timers are flows. Never later than the earliest of its deadlines
    Flow f                     # the protocol's state
    active *active             # NULL: it is at rest
    flow *next[4]              # CHAINS
    flow *peer_prev
    flow *peer_next
    flow *trail_next
    flow *closed_prev          # of the closed ones, or of those that are over
    flow *closed_next
    peer *p                    # the association; NULL: none
    Channel *channel
    hk_flow *rec
    redirected *r              # the engine is the TCP of what its application sends; NULL: the kernel is
    uint64_t id                # generation << 32 | slot
    uint64_t locator
    uint64_t cookie            # SO_COOKIE of the socket
    uint64_t opened_ns
    uint64_t again_at          # client: when it tries again; UINT64_MAX: not. Engaged: since when. Closed: its channel's end
    uint64_t bytes_out
    uint64_t bytes_in
    uint8_t proof_key[18]      # FLOW_KEY_SIZE
    uint16_t mss
    uint16_t longest           # bytes of one segment of its TCP's that has come out of hk0
    uint16_t theirs            # bytes of the longest block of the remote TCP's: one segment where it counts (hk0.pyx)
    uint16_t granted           # the window that the remote TCP began with, as in a header; 0: not known
    uint16_t speaks            # the run of the engine that answered the SYN; 0: none did
    uint32_t marks             # of the record, whose numbers have been taken over
    uint32_t trail_seq         # the positions that the wire knows
    uint32_t trail_ack
    uint32_t trail_edge
    uint32_t told_ts           # TSval of this epoch's first ENGAGED; without a trail of its last one
    uint32_t lingers_to        # its socket is gone: the position that its kernel acknowledges with the peer's FIN
    uint32_t ts_recent         # the remote TCP's timestamp that the local one knows
    uint32_t shown_edge        # of a flow at rest: up to where its local TCP may send
    uint32_t local_isn
    uint32_t remote_isn
    ends ends
    uint8_t local_wscale       # by which each shifts the windows it says
    uint8_t remote_wscale
    uint16_t bits              # flow_bit
    uint16_t peer_port         # of the peer's engine
    uint8_t tcp_options        # HK_TCP_*
    uint8_t why                # enum why; 0: none
    uint8_t pauses             # how often it has tried again
    uint8_t trail_epoch        # whose numbers these are
    uint8_t trail_both         # the epoch in which the peer has said that it has a trail
    uint8_t unproven           # the server's engine said nothing in its SYN-ACK
    uint8_t cooled             # what the kernel program knew of its service
    uint8_t rests              # its channel was given back, and its association is held
    uint8_t starts             # start_bit
    uint8_t unmark             # unmark_state
    uint8_t sent               # segments with bytes since it was engaged, as far as they are counted
    uint8_t roomy              # its peer's window has been wide, so many acknowledgements ago at most (hk0.pyx)
    uint8_t on                 # the transport of its association: an index
    uint8_t again              # again_state
    uint8_t translated         # there is NAT between the hosts
    uint8_t narrow             # the remote TCP has moved its window's edge, and by less than a segment of the local one's

cdef struct redirected:        # of a flow that was adopted
    Joined j
    hk_redirect *rec           # NULL: its socket is gone
    Turns turns                # then: what was said of it last
    flow *next_due
    uint64_t retry_at          # the transport has not taken what there was; UINT64_MAX: it has
    uint8_t bits               # redirected_bit

cdef struct account:           # for which association it is; lots may outlive that
    Association *a             # NULL: it is down
    uint32_t lots              # and one while its peer is there

cdef struct lot:               # bytes that the transport, or a sender, has of one peer's flows: in one slab, or one copy
    slab *memory               # NULL: behind this structure
    account *to
    peer *p                    # whose newest it is; NULL: nobody's
    uint64_t borrowed          # bytes
    uint64_t copied            # of the copy

cdef struct stretch:               # blocks of one flow that follow each other
    flow *owner
    stretch *next_used
    uint32_t position
    uint32_t n                 # bytes
    uint32_t count
    uint8_t epoch
    uint8_t flags              # of the last block
    iovec part[65]             # room for the headers in front: 1 + PARTS

cdef struct early_open:        # an OPEN that came before its flow
    uint64_t locator
    uint64_t token             # the opener's
    uint64_t until             # ns; 0: nobody's
    uint32_t ends              # what it says of addresses
    peer *p
    early_open *next           # of its peer
    early_open *prev
    uint8_t epoch
    uint8_t flags
    uint8_t proof[16]

cdef struct rule_way:          # what a policy rule says of how its flows are moved
    uint8_t first              # the transport that is asked for first
    uint8_t function           # code of VTL's reliability function, in associations that we begin
    bint gives_up              # which may lose bytes: so may that of associations that the peer begins

cdef struct peer:              # the engine at the other end of an association
    Association *a             # NULL: it is down, and its flows are on their way out
    uint64_t instance          # HELLO's; 0: not here yet
    uint64_t random
    uint64_t own_random
    flow *flows
    flow *at                   # of these, the one whose turn is next (turns.pyx)
    peer *turn_next
    account *lent              # NULL: nothing was lent for it yet
    lot *newest                # what its flows were lent in the slab that is being filled, if anything
    uint32_t n
    int why                    # it was never up
    bint queued                # for turns
    bint unrepaired            # what is lost there is not sent again by the transport
    bint greeted               # the transport has our HELLO
    uint8_t greetings          # tries
    uint64_t greet_at          # ns: the next one
    early_open *early
    uint32_t early_n
    uint64_t answers_at        # rate of what is said about unknown flows
    double answers
    bint up                    # has been
    bint trails                # there is NAT between the hosts, or has been
    uint16_t speaks            # the run of the engine there, as in SYN-ACKs; 0: not known
    uint32_t stashed           # cells of its flows

cdef struct notice:            # an event for Python
    uint8_t kind
    uint8_t why
    uint8_t role
    uint8_t state
    uint64_t flow_id
    hk_key key
    uint64_t bytes_out
    uint64_t bytes_in
    uint64_t at_ns
    uint64_t waited_ns

cdef struct lane:              # of one family (lane.pyx)
    int fd                     # the engine's own connection; -1: none
    uint8_t version
    uint8_t state              # lane_state
    uint8_t pauses             # how often it has come to nothing
    uint8_t tries              # connections, of this look
    bint watched
    bint blocked
    bint late
    bint heard                 # a segment of it has come out of hk0
    uint16_t port              # of its socket
    uint16_t before            # of the last one
    uint16_t service           # its remote end
    uint8_t address[16]
    int device                 # its socket is bound to, there being no rule; 0: it is not
    uint64_t due               # ns

cdef struct cut:               # a service whose segments do not come (cut.pyx)
    uint8_t ip[16]             # of its host; a server's own
    uint16_t port              # 0: nobody's entry
    uint8_t role
    uint8_t pauses             # how often
    uint64_t until             # ns
    uint64_t tester            # id of the flow that tries it again

cdef struct worker_counters:
    uint64_t loops, segments, segment_bytes, segments_refused, segments_unknown, segments_bridged, data_not_taken
    uint64_t segments_older     # of a connection with the same ports before
    uint64_t segments_stale     # which had waited for us, while later ones went by the wire
    uint64_t early, early_kept, early_on_wire, services_cooled     # flows, stretches of DATA, flows, times
    uint64_t segments_repeated  # copies of what was under way when a flow left
    uint64_t blocks, block_bytes, injected, injected_bytes, acks, probes, resets, refused, holes_told, unknown_messages, unproven
    uint64_t channels_rested   # given back by flows that have nothing to say
    uint64_t twins_rested      # and twins
    uint64_t trails            # flows that the wire is shown
    uint64_t lane_looks, lanes_blocked, lanes_restored, services_cut, held_in_vain
    uint64_t services_translated    # of these, seen by a segment with another address
    uint64_t starts_waited      # flows, for their turn to be engaged
    uint64_t hk0_behind         # times that silence said nothing: hk0's queue had not been read so far, or may have been full
    uint64_t trail_segments    # by so many bare segments
    uint64_t frames, frame_bytes, redirect_reads, bad_frames, unknown_flow_frames
    uint64_t passed_bytes, passed_early, passed_holes, passed_not_taken    # bytes, segments of adopted flows' TCPs
    uint64_t adopted, adopt_blocking, adopt_refused, adopt_zerocopy, given_up, tap_errors, tap_missed
    uint64_t undelivered_bytes  # acknowledged to their application here, and brought by nobody any more
    uint64_t over_share, turns, engaged, left, opened, closed, early_opens, wire_errors, notices_lost, slabs_exhausted
    uint64_t aborts_failed     # sockets that the kernel would not end
    uint64_t peers_not_reached # associations that did not begin: too many did
    uint64_t holes_filled, bytes_zeroed, holes_untold   # of bytes that peers gave up; events that were too many
    uint64_t reasons[64]       # WHYS
    uint64_t ended[64]         # of these, flows that had been engaged

cdef struct worker:
    worker_lock lock           # held by the loop except while it waits
    uint32_t stop
    uint32_t running           # run() has begun and not returned
    uint64_t now
    poller poll
    int epoll_fd
    int wake_fd                # for the loop: stop
    int notice_fd              # for Python: there are notices
    int route_fd               # for Python: the rule that leads to hk0 is wanted
    int destroy_fd             # sock_diag (destroy.pyx)
    int missed_fd              # and: it may have been taken away, or a route
    # the kernel side
    ring_reader ring
    int ring_fd
    int free_fd
    int avoid_fd
    int warm_fd                # -1: none is
    hk_flow *records
    uint32_t max_flows
    int tun_fd
    tun_counters tun
    uint32_t tun_queue         # packets of hk0's queue
    bint late                  # this round began long after the last one
    uint64_t read_to           # ns: what was in hk0's queue then has been read (unread.pxd)
    uint64_t full_ns           # when so many packets had been read as it holds, and it had not been found empty
    uint64_t mark_ns           # the next such moment:
    uint64_t mark_count        # when so many packets have been read in all
    uint64_t answered          # packets written to hk0 before it was read last
    flow *unmark_first         # whose mark goes when what they have sent there has been read
    flow *unmark_last
    uint32_t mark              # of sockets that are led here
    lane lanes[2]              # IPv4, IPv6
    cut cuts[256]              # CUTS
    cut waits[256]             # and services whose flows were held in vain (hold.pyx)
    uint64_t awaited[1024]     # AWAITED: flows (translated.pyx)
    int raw4                   # for packets with their headers, to the wire
    int raw6
    # flows
    FlowConfig config          # what is the same for all transports
    FlowConfig configs[32]     # 2 · TRANSPORTS: and of flows on each of them, then where losses are TCP's to repair
    flow **flows               # by slot
    place_room flow_room       # a place for each flow
    place_room active          # and one for each of those that move
    uint32_t flow_n            # those without a slot, too
    uint32_t live              # have a slot
    uint32_t *given_back       # by slot: the generation that was given back last
    uint8_t *strays            # by slot: it has a connection of which no flow could be made
    uint32_t stray_n
    flow **chains[4]           # CHAINS
    uint32_t chain_mask
    uint64_t ruled_ns          # since when the routing rule is there; 0: it is not
    uint64_t scatter[2]        # key of the tables whose keys peers choose
    timer_heap timers
    flow *dirty                # an ACK may be due
    flow *waiting              # for their turn to ask; the next one
    flow *waiting_last
    uint32_t starting          # clients' flows between OPEN and ENGAGED
    bint crowded               # as the kernel program has been told
    flow *trail_due            # the wire is to be shown their numbers
    uint8_t trail              # trail_choice
    flow *closed_first         # the oldest
    flow *closed_last
    uint32_t closed_n
    flow *closing              # their sockets are gone; what they have said may still be in hk0
    flow *ending               # the same, and of these it is read before they end
    uint64_t ending_ns         # when they came, at the latest
    flow *over                 # to be freed between rounds
    flow *last_local           # whose segment came last
    early_open early[4096]     # EARLY
    # buffers
    slab_pool slabs
    uint64_t copied            # bytes lent in copies
    # the redirect socket
    hk_redirect *redirects     # by slot; NULL: nothing is redirected
    int adopt_fd
    int redirect_fd
    frame_parser parser
    frame_entry *frames        # FRAMES
    SenderPool pool
    flow *senders              # those that may have something to send, or to acknowledge
    bint starved               # no slab for what the redirect socket has
    bint redirect_armed
    void *tap                  # borrowed; the worker object holds it
    void *owner                # and that is this
    uint8_t *spare             # a packet's room when there is no slab
    uint8_t *cut               # and one for cut packets
    uint64_t trimmed           # channels_rested when memory went to the system
    cell_room kept             # copies of what is under way
    cell_room stash            # DATA that its flow cannot take yet
    stretch *run_memory
    stretch *run_free
    stretch *run_used              # in the order in which they began
    stretch *run_last
    # transports
    Transport *transports[16]  # TRANSPORTS
    uint32_t transport_n       # 0: the worker is closed
    rule_way rules[16]         # HK_RULES; what policy rules say of their flows
    uint64_t instance
    bint routed                # the rule was asked for
    bint device_gone           # hk0 was removed
    bint leaving               # the engine stops
    bint walking               # all flows hear of that, or of lost framing, from slot walk_at on
    uint32_t walk_at
    peer *turn_first           # peers with flows that have something to do (turns.pyx)
    peer *turn_last
    bint greeting              # some HELLO is missing
    peer *peers[4096]          # PEERS: those that are up
    uint32_t peer_count
    uint16_t port              # where we listen
    uint16_t peer_port         # where peers listen unless they say otherwise
    uint64_t avoid_for         # ns
    uint64_t hold_for          # ns that a new flow is held at most; 0: none is
    bint pinned                # there is a key: a flow that has been engaged does not go back
    uint64_t swept
    uint32_t sweep_at          # the slot that is looked at next
    notice *notices
    uint64_t notice_head
    uint64_t notice_tail
    uint64_t notice_trimmed    # the head when memory went to the system
    uint64_t notice_told
    bint listening             # somebody wants to hear of events as they happen
    double hole_tokens         # rate of events of holes
    double reaches             # and of associations that begin
    uint64_t reach_at
    uint64_t hole_at
    worker_counters n


cdef inline const FlowConfig *config_of(const worker *w, const flow *f) noexcept nogil:
    return &w.configs[f.on + (TRANSPORTS if f.p != NULL and f.p.unrepaired else 0)]
