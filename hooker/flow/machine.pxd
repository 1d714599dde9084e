# One flow's state at one host: the events of both sides in, actions out. docs/flow.md, 7; the table is states.py.
# Positions are sequence numbers less the initial one, modulo 2^32; times are nanoseconds of any clock.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.flow.messages cimport Message

cdef enum:
    FAR = 1 << 30               # what is farther away than that is no position of this flow

cdef enum flow_state:
    ST_TCP
    ST_OPENING
    ST_EARLY
    ST_ARMED
    ST_BRIDGE
    ST_ENGAGED
    ST_LEFT
    ST_CLOSED
    ST_GONE
    STATES

cdef enum flow_role:
    ROLE_CLIENT
    ROLE_SERVER

cdef enum flow_event:
    EV_START
    EV_START_EARLY
    EV_SEGMENT
    EV_SEGMENT_BOTH
    EV_LOCAL_RST
    EV_UNMARKED
    EV_CLOSE
    EV_CLOSE_RESET
    EV_EVIDENCE
    EV_TIMER
    EV_EXHAUSTED
    EV_DOWN
    EV_PEER_DEAD
    EV_STOP
    EV_DOUBT
    EV_OPEN_NEW
    EV_OPEN_AGAIN
    EV_OPEN_OLD
    EV_ACCEPT
    EV_ACCEPT_SEEN
    EV_ACCEPT_BOTH
    EV_REJECT
    EV_ENGAGED
    EV_FINAL
    EV_DATA
    EV_DATA_OLD
    EV_ACKED
    EV_PROBE
    EV_PING
    EV_PONG
    EV_REFUSED
    EV_RESET
    EV_LEAVE
    EV_STALE
    EV_AFTER_RESET
    EV_LEAVE_AFTER_RESET
    EV_RESET_TOO
    EVENTS

cdef enum flow_action:          # bits
    DO_SEND_OPEN = 1 << 0
    DO_SEND_ACCEPT = 1 << 1
    DO_SEND_ENGAGED = 1 << 2
    DO_SEND_DATA = 1 << 3
    DO_SEND_ACKED = 1 << 4
    DO_SEND_PROBE = 1 << 5
    DO_SEND_PING = 1 << 6
    DO_SEND_PONG = 1 << 7
    DO_SEND_RESET = 1 << 8
    DO_SEND_LEAVE = 1 << 9
    DO_MARK = 1 << 10
    DO_UNMARK = 1 << 11
    DO_BRIDGE = 1 << 12
    DO_WIRE_OLDEST = 1 << 13
    DO_WIRE_EARLY = 1 << 14
    DO_WIRE_ACK = 1 << 15
    DO_WIRE_RST = 1 << 16
    DO_INJECT = 1 << 17
    DO_KEEP = 1 << 18
    DO_INJECT_ACK = 1 << 19
    DO_INJECT_PROBE = 1 << 20
    DO_INJECT_RST = 1 << 21
    DO_RESUME = 1 << 22
    DO_ABORT = 1 << 23
    DO_REPORT = 1 << 24
    DO_FORGET = 1 << 25
    DO_SEND_SACK = 1 << 26

cdef enum flow_reason:
    WHY_NONE
    WHY_NO_ANSWER
    WHY_REJECTED
    WHY_NOT_THROUGH_HK0
    WHY_PEER_NOT_ENGAGED
    WHY_PEER_LEFT
    WHY_UNKNOWN_THERE
    WHY_WIRE_ACK
    WHY_NO_PROGRESS
    WHY_PEER_SILENT
    WHY_TRANSPORT_DOWN
    WHY_ENGINE_GONE
    WHY_ENGINE_STOPS
    WHY_RESET_HERE
    WHY_RESET_THERE
    WHY_CLOSED
    WHY_EPOCHS_USED_UP

cdef enum flow_flag:
    FL_PINNED = 1 << 0
    FL_EARLY = 1 << 1           # DATA may go before the peer's ENGAGED: the service is known to be warm
    FL_EARLY_WAITS = 1 << 2     # some has gone
    FL_PEER_ENGAGED = 1 << 3    # the peer has seen a segment of its own in this epoch
    FL_FINAL_HERE = 1 << 4      # peer_final is the peer's last word on the wire
    FL_SERIAL_SEEN = 1 << 5     # serial_in is the peer's
    FL_REFUSED = 1 << 6         # retransmissions between refused_from and refused_to must pass
    FL_RST_TOLD = 1 << 7        # the peer's kernel has reset the connection, ours still has it
    FL_WAS_RESET = 1 << 8       # ours has
    FL_PROMISED = 1 << 9        # told_edge is beyond the kernel's window
    FL_DOUBTED = 1 << 10        # something says that the peer has left, and it has said nothing since
    FL_LATE = 1 << 11           # the last try came late, and did not count
    FL_SEEN = 1 << 12           # EARLY: a segment has come through hk0


cdef struct FlowConfig:         # one for an engine and class of transport
    uint64_t first_try          # OPEN, ENGAGED, PING: the least time to an answer
    uint64_t silence            # while engaged, and nothing but silence says that the peer has left
    uint64_t late               # a timer that comes so late: the engine has not run, and answers may wait for it
    uint64_t longest_try        # and the longest between two
    uint64_t local_probe        # ARMED: the first silence after which the local socket is probed
    uint64_t quiet              # LEFT: after so long without a segment the mark is gone
    uint64_t closed             # how long a closed flow is remembered
    uint64_t early              # beyond one RTT, until early DATA goes to the wire, too
    uint32_t early_most         # bytes of it: the peer keeps so many
    uint64_t gather             # EARLY: so long OPEN waits for the first segment, to go with it
    uint64_t answer             # an ACK of the kernel that repeats the last one and comes so long after what was injected
                                # answers something else
    uint8_t tries               # OPEN, ENGAGED, PING, of free flows
    uint8_t pinned_tries        # of pinned flows, while they open
    uint8_t probes              # of the local socket
    uint8_t repeats             # retransmissions of one position through a peer that answers, until the flow leaves
    uint8_t stuck_repeats       # or so many of the oldest, and for so long, where the transport repairs nothing
    uint64_t stuck
    bint repairs                # the transport sends again what it loses: a first retransmission need not pass


cdef struct Flow:               # 128 bytes
    uint64_t token              # ours: the peer writes it into what it sends
    uint64_t peer_token
    uint64_t wait_at            # when the state's timer is due; UINT64_MAX: never
    uint64_t edge_moved         # when the kernel's window last grew
    uint64_t injected_at
    uint32_t snd_nxt            # behind the last byte our kernel has sent, as far as we know
    uint32_t snd_una            # acknowledged to our kernel
    uint32_t peer_acked         # acknowledged by the peer's kernel; may be ahead of what we have seen sent
    uint32_t peer_edge
    uint32_t wire_high          # our kernel's bytes from snd_una to below it may be on the wire
    uint32_t rcv_ack            # our kernel's acknowledgement
    uint32_t rcv_edge           # and the end of its window
    uint32_t told_edge          # what the peer was told
    uint32_t injected           # behind the last byte given to our kernel
    uint32_t peer_final         # the peer puts nothing above it onto the wire; in ENGAGED not below rcv_ack
    uint32_t refused_from       # of what the peer or the transport has not kept, what has not been repeated yet
    uint32_t refused_to
    uint32_t again_from         # the position sent again last
    uint32_t tsval              # our kernel's, of the last segment
    uint32_t rtt_us             # of the transport
    uint32_t promise            # bytes that may be promised beyond the kernel's window
    uint16_t serial_out
    uint16_t serial_in
    uint16_t flags
    uint8_t state
    uint8_t role
    uint8_t epoch               # 0: never opened
    uint8_t tries
    uint8_t backoff             # answers without progress
    uint8_t again               # times again_from was sent again
    uint8_t lone                # ACKs of our kernel that nothing of ours elicited
    uint8_t reason
    uint8_t oldest_again        # times the oldest position was sent again
    uint32_t oldest_from        # which that was
    uint32_t oldest_ms          # since when; low 32 bits


cdef struct Segment:            # of our kernel, out of hk0
    uint32_t position
    uint32_t length             # payload, and 1 for FIN (SYN is never here)
    uint32_t ack                # position of the other direction
    uint32_t window             # bytes
    uint32_t tsval
    bint rst
    bint holes                  # SACK: the kernel has bytes behind some that are missing
    bint arrived                # the transport has none of the flow's bytes under way, as far as it knows

cdef struct Outcome:
    uint32_t actions
    uint8_t epoch               # for LEAVE: the epoch that it answers
    uint8_t was                 # the state before


cdef inline bint after(uint32_t x, uint32_t y) noexcept nogil:
    return <int>(x - y) > 0

cdef inline bint near(uint32_t x, uint32_t y) noexcept nogil:
    return x - y < FAR or y - x < FAR


cdef void flow_defaults(FlowConfig *c) noexcept nogil
# Both positions are 1 at ESTABLISHED; later, what is known to be acknowledged.
cdef void flow_init(Flow *f, flow_role role, uint64_t token, uint32_t snd_una, uint32_t rcv_nxt,
                    uint32_t rtt_us) noexcept nogil
# Each of these fills `out`. `m` must have our token (OPEN: our locator and a right proof).
cdef void flow_local(Flow *f, const FlowConfig *c, flow_event what, uint64_t now, Outcome *out) noexcept nogil
cdef void flow_segment(Flow *f, const FlowConfig *c, const Segment *s, uint64_t now, Outcome *out) noexcept nogil
cdef void flow_message(Flow *f, const FlowConfig *c, const Message *m, uint64_t now, Outcome *out) noexcept nogil
cdef void flow_timer(Flow *f, const FlowConfig *c, uint64_t now, Outcome *out) noexcept nogil
cdef uint64_t flow_deadline(const Flow *f) noexcept nogil
cdef void flow_put_off(Flow *f, uint64_t until) noexcept nogil    # what its timer waits for may be here, unread
# The kernel program has done MARK. Its numbers of that moment: whatever went by TCP before is behind them.
cdef void flow_marked(Flow *f, uint32_t snd_una, uint32_t snd_nxt, uint32_t rcv_nxt) noexcept nogil
cdef void flow_injected(Flow *f, uint32_t end, uint64_t now) noexcept nogil   # of what was kept
cdef void flow_not_taken(Flow *f, uint32_t position) noexcept nogil           # the transport was full
cdef void flow_compose(Flow *f, uint8_t type, uint64_t now, Message *m) noexcept nogil    # all but proof and payload
# The answer to a message with a token nobody has, addressed by that very token. False: it deserves none.
cdef bint unknown_flow(const Message *m, Message *answer) noexcept nogil
