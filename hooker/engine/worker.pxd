# The state of one worker, and of the flows it carries. Plain C: the loop runs without the GIL.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from hooker.carriers.udp cimport udp_carrier
from hooker.engine.frames cimport frame_entry, frame_parser
from hooker.includes.hk cimport hk_event, hk_flow, hk_key, hk_peer
from hooker.includes.linux cimport iovec
from hooker.engine.lock cimport worker_lock
from hooker.engine.nudge cimport nudger
from hooker.engine.polling cimport poller
from hooker.engine.ringbuf cimport ring_reader
from hooker.engine.slab cimport slab_pool
from hooker.includes.timers cimport timer, timer_heap
from hooker.vtl.api cimport vtl_addr, vtl_assoc, vtl_batch, vtl_endpoint, vtl_open_info, vtl_stream

cdef enum:
    GATHER = 256               # parts of one sendmsg() to a twin
    FRAMES = 4096              # entries of the frame table
    NOTICES = 16384            # events waiting for Python; a power of two
    REACHED = 1024             # remembered by reach.pyx; a power of two
    SERVICES = 4096            # remembered; a power of two
    OPEN_BUCKETS = 8192        # of the table of early OPENs
    PEERS = 4096               # associations that people are shown

cdef enum reason:              # why a flow is where it is; REASONS in flowtable.pyx has the texts
    R_NONE = 0
    R_NO_ENGINE = 1            # nobody answers at the peer's VTL port
    R_HOLD_TIMEOUT = 2
    R_REJECTED = 3             # the peer's engine does not know the flow, or may not take it
    R_PEER_RELEASED = 4
    R_TWIN = 5                 # the twin could not be made here
    R_APP_CLOSED = 6           # the application's socket was gone before the flow was decided
    R_MEMORY = 7
    R_CLOSED = 8               # ended in order
    R_APP_RESET = 9
    R_PEER_RESET = 10
    R_PEER_LOST = 11
    R_ENGINE_STOPPED = 12
    R_PROTOCOL = 13
    R_KEY = 14                 # one engine has no key, or another one
    R_VERSION = 15             # no version of VTL is common
    R_NO_ROUTE = 16            # the routing rule for the twins is not there
    R_PATH = 17                # marked segments do not reach the twin: DNAT, a firewall
    R_COUNT = 18

cdef struct gather_list:       # parts of received datagrams that go to one twin together
    gather_list *next_free
    uint32_t count
    size_t size                # bytes
    iovec part[GATHER]

cdef struct block:             # of bytes the application has not taken yet
    block *next
    uint32_t start
    uint32_t end
    uint8_t data[16368]

cdef struct flow:
    timer due                  # first, see flows_on_timer()
    hk_event est               # what the handshake was
    uint8_t key[16]            # what only its two ends know of it
    uint64_t locator           # what names that key in an OPEN
    hk_flow *rec               # the record shared with the kernel programs
    vtl_stream *stream
    uint64_t id
    uint32_t slot
    uint8_t state              # HK_STATE_*
    uint8_t why                # enum reason
    bint app_closed            # its socket reached CLOSE
    bint ended                 # nothing more to do but to free it
    bint in_done
    flow *done_next
    int twin                   # descriptor; negative: none, or why it could not be made
    # when something is due; UINT64_MAX: never
    uint64_t deadline          # of the hold
    uint64_t again_at          # client: say the handshake's last ACK again; server: try again to make the twin
    uint64_t look_at           # whether its twin is reached, or its socket was (reach.pyx)
    uint64_t orphan_at         # its application is gone, and the peer does not end it
    # held, or engaged without the peer's word yet
    uint32_t tries
    bint accepted              # client: the peer's engine has the flow
    uint64_t route_by          # server: an OPEN waits for the routing rule until then; 0: none does
    flow *held_prev
    flow *held_next
    bint in_held
    flow *locator_next         # chain of the table by locator
    # application → peer
    uint64_t received          # redirected bytes that came
    uint64_t resume            # bytes read from the twin
    uint32_t reads             # of the twin, until the socket was offered to the SOCKHASH
    bint adopted               # it is in there
    bint bounded               # twin_bound() was called
    bint eof                   # the twin gave end of data, the stream has its FIN
    bint hup                   # the application's FIN has reached the twin
    bint watches_room          # epoll tells when the twin takes bytes again
    uint32_t strays            # segments that it sent engaged and without our mark
    uint32_t heard             # segments the twin had counted when there was no way back
    uint32_t looks             # at the twin
    bint asked                 # it was knocked at again
    bint was_reset             # by its twin
    bint urgent                # urgent data came: a recv() may stop before the end
    bint waiting               # the twin has bytes, but their turn or room has not come
    bint in_retry
    flow *retry_next
    bint in_starving           # it waits for a slab
    flow *starving_next
    # peer → application
    gather_list *gather        # NULL between batches
    bint in_dirty
    flow *dirty_next
    block *backlog_first
    block *backlog_last
    size_t backlog
    bint late                  # bytes came after the application's FIN
    bint prompt                # twin_prompt() was called
    bint fin                   # the peer's FIN came
    bint fin_done              # and was handed to the application
    bint fin_sent              # by the twin
    # for people
    uint64_t opened_ns
    uint64_t engaged_ns
    uint64_t bytes_out
    uint64_t bytes_in

cdef struct service:           # that has accepted a flow
    hk_peer peer
    uint16_t instance          # of the engine: see services.pyx
    uint16_t zero

cdef struct waiting_open:      # an OPEN that came before its flow's event
    timer due                  # first, see early_expire()
    vtl_stream *stream
    vtl_open_info info
    waiting_open *next         # chain of its bucket
    waiting_open **at          # what points to it there

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
    uint64_t waited_ns         # held for so long

cdef enum notice_kind:
    N_OPENED = 1
    N_ENGAGED = 2
    N_RELEASED = 3
    N_CLOSED = 4
    N_PEER_UP = 5
    N_PEER_DOWN = 6

cdef enum route_state:         # of the routing rule for marked packets
    ROUTE_NONE = 0
    ROUTE_WANTED = 1           # the first candidate is here
    ROUTE_READY = 2
    ROUTE_FAILED = 3           # it is tried again

cdef struct worker_counters:
    uint64_t loops, frames, frame_bytes, redirect_reads, twin_reads, twin_read_bytes
    uint64_t twin_writes, twin_write_bytes, adopted, adopt_blocking, adopt_refused, adopt_zerocopy, backlog_bytes_peak, unknown_flow_frames, bad_frames
    uint64_t datagrams_dropped, nudges, committed, unproven, engaged, released, closed, resets, destroyed, twins_retried, acks_again, urgent, notices_lost, slabs_exhausted, tap_errors
    uint64_t reasons[R_COUNT]
    uint64_t ended[R_COUNT]    # of these, flows that had run over the transport

cdef struct worker:
    worker_lock lock           # held by the loop except while it waits
    uint32_t stop
    uint32_t running           # run() has begun and not returned
    uint64_t now
    poller poll
    int epoll_fd
    int wake_fd                # for the loop: stop, or news of the route
    int notice_fd              # for Python: there are notices
    int route_fd               # for Python: the routing rule is wanted
    # the kernel side
    ring_reader ring
    int ring_fd
    int free_fd
    int avoid_fd
    int adopt_fd
    int redirect_fd
    hk_flow *records
    uint32_t max_flows
    uint32_t route             # enum route_state
    # flows
    flow **flows               # by slot
    uint32_t live
    uint32_t *given_back       # by slot: the generation that was given back last
    flow **by_locator          # servers' flows
    flow *held
    uint64_t swept             # when the flows were last looked over
    uint64_t look_again        # whether twins can be made (shortage.pyx); 0: they can
    uint32_t lost              # hk_attention.lost when the flows were last looked over
    timer_heap flow_timers
    waiting_open *opens[OPEN_BUCKETS]   # by locator
    uint32_t open_count
    timer_heap open_timers
    uint64_t scatter[2]        # key of the tables whose keys peers choose
    service services[SERVICES]
    flow *retry
    flow *starving             # oldest first
    flow *starving_last
    flow *dirty
    gather_list *gather_free
    flow *done                 # perhaps over: looked at between rounds
    # buffers
    slab_pool slabs
    frame_parser parser
    frame_entry *frames
    bint starved               # no slab was free
    bint redirect_armed
    # transport
    udp_carrier udp
    vtl_endpoint *vtl
    vtl_assoc *peers[PEERS]    # those that are up
    uint32_t peer_count
    vtl_batch batch
    uint32_t batch_at          # datagrams of the batch already sent
    uint16_t port              # where we listen
    uint8_t transport          # wire id
    uint16_t peer_port         # where peers listen unless they say otherwise
    # policy of time (ns)
    uint64_t hold_client
    uint64_t hold_server
    uint64_t hold_open
    uint64_t accept_ns         # how long services take to accept, smoothed
    uint64_t avoid_for
    nudger nudger
    int mark                   # of hooked application sockets
    hk_peer reached[REACHED]   # twins for these are reached,
    uint64_t reached_until[REACHED]
    notice *notices
    uint64_t notice_head
    uint64_t notice_tail
    uint64_t notice_told
    bint listening             # somebody wants to hear of events as they happen
    worker_counters n
    void *tap                  # a Python callable, or NULL; the Worker object keeps it alive
    void *owner                # the Worker object
