"""The state machine of one flow at one host; docs/flow.md, 7 and 8.

Everything goes the same way: what happened becomes an event; the table says the next state and the actions; in
ENGAGED the numbers add to them. The engine does what `out.actions` say, and asks `flow_deadline` when to come back.
"""

from libc.stdint cimport UINT64_MAX, int16_t
from libc.string cimport memset
from hooker.flow.messages cimport *

from hooker.flow import states

cdef enum:
    SAME = 255                  # next state: the same, and its timer goes on
    MAX_EPOCH = 255
    MAX_BACKOFF = 6
    LONE_ACKS = 2               # one may be the kernel's answer to a stray
    UNKNOWN_HERE = 1            # REJECT's reason: perhaps only not yet
    MILLISECOND = 1000000
    MAX_BEYOND = 65536          # bytes behind the window: the longest segment
    WINDOW = 65535 << 14        # the widest that TCP has (RFC 7323 2.3)

cdef struct Cell:
    uint32_t actions
    uint8_t next

cdef Cell table[2][2][STATES][EVENTS]       # role, pinned


def load(rules) -> None:
    """Puts the rules into the table, in which the first that fits counts."""
    cdef Cell *cell
    cdef int role, pinned, state, event
    for role in range(2):
        for pinned in range(2):
            for state in range(<int>STATES):
                for event in range(<int>EVENTS):
                    table[role][pinned][state][event].actions = 0
                    table[role][pinned][state][event].next = SAME
    for rule in reversed(rules):
        for role in range(2) if rule.role is None else (rule.role,):
            for pinned in range(2) if rule.pinned is None else (rule.pinned,):
                cell = &table[role][pinned][<int>rule.state][<int>rule.event]
                cell.actions = rule.actions
                cell.next = SAME if rule.next is None else rule.next


load(states.RULES)


cdef void flow_defaults(FlowConfig *c) noexcept nogil:
    memset(c, 0, sizeof(FlowConfig))
    c.first_try = 60 * MILLISECOND
    c.silence = 100 * MILLISECOND
    c.late = 25 * MILLISECOND
    c.longest_try = 1000 * MILLISECOND
    c.local_probe = 20 * MILLISECOND
    c.quiet = 1000 * MILLISECOND
    c.closed = 60000 * <uint64_t>MILLISECOND
    c.early = 10 * MILLISECOND
    c.gather = MILLISECOND
    c.early_most = 16384
    c.answer = 300 * MILLISECOND
    c.tries = 3
    c.pinned_tries = 8
    c.probes = 5
    c.repeats = 5
    c.stuck_repeats = 3
    c.stuck = 2000 * MILLISECOND


cdef void flow_init(Flow *f, flow_role role, uint64_t token, uint32_t snd_una, uint32_t rcv_nxt,
                    uint32_t rtt_us) noexcept nogil:
    memset(f, 0, sizeof(Flow))
    f.role = role
    f.token = token
    f.rtt_us = rtt_us
    f.wait_at = UINT64_MAX
    f.snd_nxt = f.snd_una = f.peer_acked = f.peer_edge = f.wire_high = snd_una
    f.rcv_ack = f.rcv_edge = f.told_edge = f.injected = rcv_nxt


# ---- time -------------------------------------------------------------------------------------

cdef inline uint64_t rtt(const Flow *f) noexcept nogil:
    return <uint64_t>f.rtt_us * 1000

cdef inline uint64_t interval(const Flow *f, const FlowConfig *c, uint8_t doublings) noexcept nogil:
    cdef bint silent = f.state == ST_ENGAGED and not f.flags & FL_DOUBTED
    cdef uint64_t base = max(c.silence if silent else c.first_try, 2 * rtt(f))
    return max(base, min(base << min(doublings, <uint8_t>MAX_BACKOFF), c.longest_try))

cdef inline bint awaits(const Flow *f) noexcept nogil:
    """Whether the peer owes an ENGAGED flow a word."""
    return f.snd_una != f.snd_nxt or not f.flags & FL_FINAL_HERE

cdef void enter(Flow *f, const FlowConfig *c, uint8_t state, uint64_t now) noexcept nogil:
    f.state = state
    f.flags &= ~(FL_DOUBTED | FL_LATE)
    f.tries = 0
    f.backoff = 0
    f.wait_at = UINT64_MAX
    if state == ST_OPENING or state == ST_BRIDGE or state == ST_ENGAGED:
        f.wait_at = now + interval(f, c, 0)
    elif state == ST_ARMED:
        f.wait_at = now + c.local_probe
    elif state == ST_EARLY:
        f.wait_at = now + c.gather
    elif state == ST_LEFT:
        f.wait_at = now + c.quiet
    elif state == ST_CLOSED:
        f.wait_at = now + c.closed
    if state == ST_ENGAGED:
        f.flags &= ~FL_EARLY_WAITS
        f.lone = 0
        f.again = f.oldest_again = 0
    else:
        f.flags &= ~FL_PROMISED


cdef uint64_t flow_deadline(const Flow *f) noexcept nogil:
    if f.flags & FL_PROMISED:
        return min(f.wait_at, f.edge_moved + rtt(f))
    return f.wait_at


cdef void flow_put_off(Flow *f, uint64_t until) noexcept nogil:
    f.wait_at = until


# ---- one step ---------------------------------------------------------------------------------

cdef inline void begin(const Flow *f, Outcome *out) noexcept nogil:
    out.actions = 0
    out.epoch = f.epoch
    out.was = f.state

cdef inline const Cell *cell_of(const Flow *f, flow_event what) noexcept nogil:
    return &table[f.role][f.flags & FL_PINNED][f.state][<int>what]

cdef void step(Flow *f, const FlowConfig *c, flow_event what, flow_reason why, uint64_t now,
               Outcome *out) noexcept nogil:
    cdef const Cell *cell = cell_of(f, what)
    out.actions |= cell.actions
    if cell.next != SAME:
        enter(f, c, cell.next, now)
    if out.actions & DO_REPORT or (cell.next == ST_CLOSED and out.was != ST_CLOSED):
        f.reason = why
    if out.actions & (DO_ABORT | DO_SEND_RESET):
        f.flags |= FL_WAS_RESET
    if out.actions & (DO_WIRE_OLDEST | DO_WIRE_EARLY) and not f.flags & FL_PINNED:
        f.wire_high = f.snd_nxt

cdef inline void new_epoch(Flow *f, uint8_t epoch) noexcept nogil:
    f.epoch = epoch
    f.flags &= FL_PINNED | FL_EARLY | FL_RST_TOLD | FL_WAS_RESET


cdef void flow_local(Flow *f, const FlowConfig *c, flow_event what, uint64_t now, Outcome *out) noexcept nogil:
    cdef flow_reason why = WHY_CLOSED
    begin(f, out)
    if (what == EV_START or what == EV_START_EARLY) and f.role == ROLE_CLIENT and f.state == ST_TCP:
        if f.epoch == MAX_EPOCH:
            f.reason = WHY_EPOCHS_USED_UP
            out.actions = DO_REPORT
            return
        new_epoch(f, f.epoch + 1)
        out.epoch = f.epoch
        if what == EV_START_EARLY:
            f.flags |= FL_EARLY
    elif what == EV_CLOSE and f.flags & FL_RST_TOLD and ST_ARMED <= f.state <= ST_ENGAGED:
        what = EV_CLOSE_RESET
    elif what == EV_DOWN:
        why = WHY_TRANSPORT_DOWN
    elif what == EV_PEER_DEAD:
        why = WHY_ENGINE_GONE
    elif what == EV_STOP:
        why = WHY_ENGINE_STOPS
    elif what == EV_DOUBT and f.state == ST_ENGAGED:
        f.flags |= FL_DOUBTED
        f.wait_at = min(f.wait_at, now + interval(f, c, 0))
    step(f, c, what, why, now, out)


# ---- the local kernel's segments --------------------------------------------------------------

cdef inline bint note_numbers(Flow *f, const Segment *s, uint64_t now) noexcept nogil:
    """Takes over what the kernel says; whether its acknowledgement and window are those of before. A RST says what it answers
    (RFC 9293 3.5.2), not what its sender has received, and a socket that is gone answers, too."""
    cdef uint32_t edge = s.ack + s.window
    cdef bint same = s.ack == f.rcv_ack and edge == f.rcv_edge
    f.tsval = s.tsval
    if after(s.position + s.length, f.snd_nxt):
        f.snd_nxt = s.position + s.length
    if not s.rst and not after(f.rcv_ack, s.ack):
        f.rcv_ack = s.ack
        if after(edge, f.rcv_edge):
            f.edge_moved = now
        f.rcv_edge = edge
    return same


cdef inline bint plausible(const Flow *f, const Segment *s) noexcept nogil:
    return s.length <= FAR and s.window <= FAR and near(s.position, f.snd_nxt) and near(s.ack, f.rcv_ack)


cdef inline void raise_low(Flow *f, const Segment *s) noexcept nogil:
    """While we bridge only, acknowledgements pass us by, and gigabytes may. But a kernel has no more than a window under way."""
    cdef uint32_t end = s.position + s.length, low = end - WINDOW
    if f.state != ST_BRIDGE or not plausible(f, s) or not after(end, f.snd_nxt) or not after(low, f.snd_una):
        return
    f.snd_una = low
    if after(low, f.peer_acked):
        f.peer_acked = low
    if after(low, f.peer_edge):
        f.peer_edge = low


cdef inline bint possible(const Flow *f, const Segment *s) noexcept nogil:
    if not plausible(f, s):
        return False
    return (f.state != ST_EARLY and f.state != ST_ARMED and f.state != ST_BRIDGE and f.state != ST_ENGAGED
            or near(s.position + s.length, f.snd_una) and near(f.snd_nxt, f.snd_una))


cdef void flow_segment(Flow *f, const FlowConfig *c, const Segment *s, uint64_t now, Outcome *out) noexcept nogil:
    cdef flow_event what = EV_SEGMENT
    cdef bint fresh, same
    begin(f, out)
    raise_low(f, s)
    if not possible(f, s):
        if f.state == ST_ARMED:
            out.actions |= DO_BRIDGE            # bridging needs no numbers, engaging does
        elif f.state != ST_ENGAGED:
            step(f, c, EV_SEGMENT, WHY_NONE, now, out)
        return
    fresh = after(s.position + s.length, f.snd_nxt)
    same = note_numbers(f, s, now)
    if s.rst and ST_EARLY <= f.state <= ST_BRIDGE:
        f.flags |= FL_WAS_RESET         # it goes by the wire, perhaps before bytes that go as DATA: then it is not believed
    if s.rst and f.state == ST_ENGAGED:
        step(f, c, EV_LOCAL_RST, WHY_RESET_HERE, now, out)
        return
    if f.state == ST_ARMED and f.flags & FL_PEER_ENGAGED:
        what = EV_SEGMENT_BOTH
    step(f, c, what, WHY_NONE, now, out)
    if f.state == ST_EARLY:
        early_segment(f, c, now, out)
    if f.state == ST_ENGAGED:
        engaged_segment(f, c, s, fresh, same, now, out)
    elif f.state == ST_LEFT:
        f.wait_at = now + c.quiet
    if out.actions & DO_BRIDGE:
        bridge(f, c, s, now, out)


cdef inline void early_segment(Flow *f, const FlowConfig *c, uint64_t now, Outcome *out) noexcept nogil:
    """The first one takes OPEN along."""
    f.flags |= FL_SEEN
    if f.tries == 0:
        out.actions |= DO_SEND_OPEN
        f.tries = 1
        f.wait_at = now + interval(f, c, 0)


cdef inline bint may_be_early(const Flow *f, const FlowConfig *c, const Segment *s) noexcept nogil:
    """Whether it goes as DATA. A pinned flow's must; of others no more than the peer keeps: what it had to drop would wait
    for the timeouts of our TCP."""
    if (f.state != ST_BRIDGE and f.state != ST_EARLY) or not f.flags & FL_EARLY or s.length == 0 or s.rst:
        return False
    return f.flags & FL_PINNED or not after(s.position + s.length, f.snd_una + c.early_most)


cdef void bridge(Flow *f, const FlowConfig *c, const Segment *s, uint64_t now, Outcome *out) noexcept nogil:
    """The segment goes to the wire; early data goes by the transport first."""
    if may_be_early(f, c, s):
        out.actions = out.actions & ~DO_BRIDGE | DO_SEND_DATA
        if not f.flags & (FL_EARLY_WAITS | FL_PINNED):
            f.flags |= FL_EARLY_WAITS
            f.wait_at = min(f.wait_at, now + rtt(f) + c.early)
    elif not f.flags & FL_PINNED and after(s.position + s.length, f.wire_high):
        f.wire_high = s.position + s.length


cdef void engaged_segment(Flow *f, const FlowConfig *c, const Segment *s, bint fresh, bint same, uint64_t now,
                          Outcome *out) noexcept nogil:
    if f.flags & FL_FINAL_HERE and after(f.rcv_ack, f.injected) and after(f.rcv_ack, f.peer_final):
        step(f, c, EV_EVIDENCE, WHY_WIRE_ACK, now, out)     # these bytes came by the wire
        return
    if f.flags & FL_FINAL_HERE and after(f.rcv_ack, f.peer_final):
        f.peer_final = f.rcv_ack                # or it would be ahead, two gigabytes on
    if s.length > 0:
        engaged_data_segment(f, c, s, fresh, now, out)
        if f.state != ST_ENGAGED:
            return
    elif after(f.snd_una, s.position):
        # Keepalive or zero-window probe: only the far kernel can answer. Not what is merely below snd_nxt: so is an ACK
        # of a kernel whose window was shrunk, and two of those would answer each other for ever.
        out.actions |= DO_SEND_PROBE
        f.wait_at = min(f.wait_at, now + interval(f, c, 0))
    if not same or s.length == 0:
        out.actions |= DO_SEND_ACKED
    if f.flags & FL_RST_TOLD:
        out.actions |= DO_INJECT_RST            # a challenge ACK: now the number is right
    if after(f.peer_acked, f.snd_una):
        take_acknowledgement(f)
        out.actions |= DO_INJECT_ACK
    if s.holes and (not c.repairs or lacks_wire(f)):
        missing(f, c, now, out)
    count_lone(f, c, s, same, now, out)


cdef inline bint lacks_wire(const Flow *f) noexcept nogil:
    """Whether the kernel waits for bytes that the peer's TCP has sent by the wire: the transport does not repair those."""
    return f.flags & FL_FINAL_HERE and not f.flags & FL_PINNED and after(f.peer_final, f.rcv_ack)


cdef void missing(Flow *f, const FlowConfig *c, uint64_t now, Outcome *out) noexcept nogil:
    """They may be lost, and only the peer's TCP can tell, by SACK. Where the transport repairs not at once: it may have overtaken
    the wire."""
    if not c.repairs or now - f.edge_moved >= interval(f, c, 0):
        out.actions |= DO_SEND_SACK
    f.wait_at = min(f.wait_at, now + interval(f, c, f.backoff))


cdef inline void count_oldest(Flow *f, const Segment *s, uint64_t now) noexcept nogil:
    """Others may be sent again in between: what is small of them arrives, and SACK says so."""
    if s.position != f.snd_una:
        return
    if f.oldest_again == 0 or f.oldest_from != f.snd_una:
        f.oldest_again, f.oldest_from, f.oldest_ms = 0, f.snd_una, <uint32_t>(now // MILLISECOND)
    f.oldest_again = min(f.oldest_again, <uint8_t>254) + 1


cdef inline bint is_stuck(const Flow *f, const FlowConfig *c, uint64_t now) noexcept nogil:
    """What its kernel repeats does not arrive, though the peer answers: small messages come through, and segments do not.
    Where the transport repairs nothing the kernel's timer doubles each time, so there time counts, too."""
    return f.again > c.repeats or (not c.repairs and f.oldest_again >= c.stuck_repeats and f.oldest_from == f.snd_una
                                   and <uint32_t>(<uint32_t>(now // MILLISECOND) - f.oldest_ms)
                                   >= max(c.stuck, 8 * rtt(f)) // MILLISECOND)


cdef void engaged_data_segment(Flow *f, const FlowConfig *c, const Segment *s, bint fresh, uint64_t now,
                               Outcome *out) noexcept nogil:
    cdef bint passes = True
    if not fresh:
        if f.again > 0 and f.again_from == s.position:
            f.again = min(f.again, <uint8_t>254) + 1
        else:
            f.again = 1
            f.again_from = s.position
        count_oldest(f, s, now)
        if is_stuck(f, c, now) and after(f.peer_edge, f.snd_una) and not f.flags & FL_PINNED:
            step(f, c, EV_EVIDENCE, WHY_NO_PROGRESS, now, out)
            if f.state != ST_ENGAGED:
                out.actions |= DO_BRIDGE
            return
        # what went by TCP before is not on its way in the transport: nobody else repeats it. What has arrived, and is not
        # acknowledged, the peer's kernel may have dropped: it had no room
        passes = not c.repairs or s.arrived or f.again > 1 or (after(f.wire_high, s.position) and after(f.wire_high, f.snd_una))
        if f.flags & FL_REFUSED and after(s.position + s.length, f.refused_from) and after(f.refused_to, s.position):
            passes = True
            if not after(s.position, f.refused_from):       # a tail loss probe repeats the last one (RFC 8985 7.3)
                f.refused_from = s.position + s.length
            if not after(f.refused_to, f.refused_from):
                f.flags &= ~FL_REFUSED
    if passes:
        out.actions |= DO_SEND_DATA
    if f.wait_at == UINT64_MAX or f.backoff > 0:
        f.backoff = 0
        f.wait_at = min(f.wait_at, now + interval(f, c, 0))


cdef void count_lone(Flow *f, const FlowConfig *c, const Segment *s, bint same, uint64_t now,
                     Outcome *out) noexcept nogil:
    """ACKs that nothing injected has elicited: what has came by the wire, and that is where the answer goes, too. It may be a
    connection that begins at the other end's port, whose TCP answers it by a RST (RFC 9293 3.5.1, 3.10.7.3), or a TCP that
    repeats something there."""
    if not same or s.length > 0:
        f.lone = 0
    elif now - f.injected_at > c.answer and not after(f.snd_una, s.position):
        if not f.flags & FL_PINNED:             # it never goes back, and nobody on the wire knows its numbers
            out.actions |= DO_WIRE_ACK
        f.lone += 1
        if f.lone >= LONE_ACKS:
            f.lone = 0
            f.flags |= FL_DOUBTED
            step(f, c, EV_DOUBT, WHY_NONE, now, out)
            f.wait_at = min(f.wait_at, now + interval(f, c, 0))


cdef void flow_marked(Flow *f, uint32_t snd_una, uint32_t snd_nxt, uint32_t rcv_nxt) noexcept nogil:
    if f.state == ST_BRIDGE or f.state == ST_ENGAGED or f.flags & FL_SEEN:      # a segment was faster
        if near(snd_nxt, f.snd_una) and after(snd_nxt, f.snd_nxt):
            f.snd_nxt = snd_nxt
        if near(snd_nxt, f.snd_una) and after(snd_nxt, f.wire_high):
            f.wire_high = snd_nxt
        return
    f.snd_una = f.peer_acked = f.peer_edge = snd_una
    f.snd_nxt = f.wire_high = snd_nxt
    f.rcv_ack = f.rcv_edge = f.told_edge = f.injected = rcv_nxt


cdef void flow_injected(Flow *f, uint32_t end, uint64_t now) noexcept nogil:
    f.injected_at = now
    if after(end, f.injected):
        f.injected = end


cdef void flow_not_taken(Flow *f, uint32_t position) noexcept nogil:
    if not f.flags & FL_REFUSED or after(f.refused_from, position):
        f.refused_from = position
    f.refused_to = f.snd_nxt
    f.flags |= FL_REFUSED


# ---- the peer's messages ----------------------------------------------------------------------

cdef inline flow_event open_event(const Flow *f, const Message *m) noexcept nogil:
    if m.epoch > f.epoch:
        return EV_OPEN_NEW
    return EV_OPEN_AGAIN if m.epoch == f.epoch and m.own_token == f.peer_token else EV_OPEN_OLD


cdef inline bint repeats(const Flow *f) noexcept nogil:
    """Closed in order, and the peer has said that it is engaged: what says or asks so again is late."""
    return f.state == ST_CLOSED and f.flags & (FL_FINAL_HERE | FL_WAS_RESET) == FL_FINAL_HERE


cdef void on_open(Flow *f, const FlowConfig *c, const Message *m, uint64_t now, Outcome *out) noexcept nogil:
    cdef flow_event what = open_event(f, m)
    if f.role != ROLE_SERVER or m.epoch == 0 or (what == EV_OPEN_OLD and m.own_token != f.peer_token):
        return
    if what == EV_OPEN_AGAIN and repeats(f):
        what = EV_DATA_OLD
    if what == EV_OPEN_NEW and cell_of(f, what).next == ST_ARMED:
        f.peer_token = m.own_token
        new_epoch(f, m.epoch)
        if m.flags & OPEN_EARLY:
            f.flags |= FL_EARLY
        if f.state == ST_TCP or f.state == ST_LEFT:
            f.wire_high = f.snd_nxt
    step(f, c, what, WHY_NONE, now, out)


cdef inline flow_event after_reset(const Flow *f, const Message *m) noexcept nogil:
    """RESET is the one word that RESET does not answer: two ends that were reset would answer each other for ever."""
    if m.type == MSG_LEAVE:
        return EV_LEAVE_AFTER_RESET
    if m.type != MSG_RESET:
        return EV_AFTER_RESET
    return EV_RESET if f.flags & FL_RST_TOLD else EV_RESET_TOO


cdef inline flow_event event_of(const Flow *f, const Message *m) noexcept nogil:
    if f.state == ST_CLOSED and f.flags & FL_WAS_RESET:
        return after_reset(f, m)
    if m.type == MSG_DATA:
        return EV_DATA if after(m.position + data_length(m), f.rcv_ack) else EV_DATA_OLD
    if m.type == MSG_ENGAGED:
        return EV_FINAL if m.flags & ENGAGED_KNOWN else EV_ENGAGED
    if m.type == MSG_ACCEPT:
        return EV_ACCEPT
    if m.type == MSG_ACKED:
        return EV_ACKED
    if m.type == MSG_PROBE:
        return EV_PROBE
    if m.type == MSG_PING:
        return EV_PING
    if m.type == MSG_PONG:
        return EV_PONG
    if m.type == MSG_REFUSED:
        return EV_REFUSED
    if m.type == MSG_RESET:
        return EV_RESET
    return EV_LEAVE if m.type == MSG_LEAVE else EV_REJECT

cdef inline uint32_t data_length(const Message *m) noexcept nogil:
    return m.data_n + (1 if m.flags & DATA_FIN else 0)


cdef void flow_message(Flow *f, const FlowConfig *c, const Message *m, uint64_t now, Outcome *out) noexcept nogil:
    begin(f, out)
    out.epoch = m.epoch
    if m.type == MSG_OPEN:
        on_open(f, c, m, now, out)
    elif m.type == MSG_HELLO or m.epoch == 0 or m.epoch > f.epoch:
        return
    elif m.epoch == f.epoch:
        on_current(f, c, m, now, out)
    elif m.type != MSG_LEAVE and m.type != MSG_REJECT:
        step(f, c, EV_STALE, WHY_NONE, now, out)


cdef void on_current(Flow *f, const FlowConfig *c, const Message *m, uint64_t now, Outcome *out) noexcept nogil:
    cdef flow_event what = event_of(f, m)
    cdef flow_reason why = WHY_PEER_LEFT
    cdef bint told = what == EV_FINAL and f.flags & FL_FINAL_HERE       # a newer timestamp, and no answer
    if (what == EV_DATA or what == EV_DATA_OLD) and (not near(m.position, f.rcv_ack) or m.data_n > FAR):
        return
    if what == EV_ACKED and not near(m.position, f.snd_nxt):
        return
    if what == EV_REJECT:
        if m.position == UNKNOWN_HERE:
            return                              # the handshake's last ACK may still be under way; OPEN is repeated
        why = WHY_REJECTED
    elif what == EV_LEAVE and m.flags & LEAVE_QUOTES:
        why = WHY_UNKNOWN_THERE
    if m.type == MSG_ACCEPT and (f.state == ST_OPENING or f.state == ST_EARLY or f.peer_token == 0):
        f.peer_token = m.own_token
    if what == EV_ACCEPT and f.state == ST_EARLY and f.flags & FL_SEEN:
        what = EV_ACCEPT_BOTH if f.flags & FL_PEER_ENGAGED else EV_ACCEPT_SEEN
    if EV_ENGAGED <= what <= EV_REFUSED:
        f.flags |= FL_PEER_ENGAGED
        if m.type == MSG_ENGAGED and m.flags & ENGAGED_FINAL and not told:
            f.flags |= FL_FINAL_HERE
            f.peer_final = m.position
    if m.type == MSG_ENGAGED and repeats(f):
        what = EV_DATA_OLD
    if what == EV_RESET and ST_ARMED <= f.state <= ST_ENGAGED:
        f.flags |= FL_RST_TOLD
    step(f, c, what, why, now, out)
    if f.state == ST_ENGAGED and not told:
        on_engaged(f, c, what, m, now, out)


cdef void on_engaged(Flow *f, const FlowConfig *c, flow_event what, const Message *m, uint64_t now,
                     Outcome *out) noexcept nogil:
    cdef bint progress = False
    f.tries = 0
    f.flags &= ~(FL_DOUBTED | FL_LATE)
    if what == EV_DATA:
        on_data(f, m, now, out)
    elif what == EV_ACKED:
        progress = on_acked(f, m, out)
    elif what == EV_PROBE:
        f.injected_at = now
    elif what == EV_REFUSED:
        flow_not_taken(f, m.position)
    elif what == EV_RESET:
        f.reason = WHY_RESET_THERE
        f.injected_at = now
    if what == EV_ACKED or what == EV_PONG or what == EV_ENGAGED or what == EV_FINAL:
        answered(f, c, progress, now)


cdef inline void answered(Flow *f, const FlowConfig *c, bint progress, uint64_t now) noexcept nogil:
    if progress:
        f.backoff = 0
        f.again = 0
    elif f.backoff < MAX_BACKOFF:
        f.backoff += 1
    f.wait_at = now + interval(f, c, f.backoff) if awaits(f) else UINT64_MAX


cdef void on_data(Flow *f, const Message *m, uint64_t now, Outcome *out) noexcept nogil:
    cdef uint32_t end = m.position + data_length(m)
    # a FIN alone is taken with a closed window, too (RFC 9293 3.10.7.4)
    if after(f.rcv_edge, m.position) or (m.data_n == 0 and f.rcv_edge == m.position):
        out.actions |= DO_INJECT
        if after(end, f.rcv_edge + (1 if m.flags & DATA_FIN else 0)):
            out.actions |= DO_KEEP
            end = f.rcv_edge
        flow_injected(f, end, now)
    elif after(f.told_edge, m.position):
        out.actions |= DO_KEEP
    else:
        out.actions |= DO_INJECT_PROBE          # what the kernel answers tells the peer of its window
        f.injected_at = now
        if after(f.rcv_edge + MAX_BEYOND, m.position):
            out.actions |= DO_KEEP              # its TCP may have been shown a whole segment of a narrow window (8.3)


cdef inline void take_acknowledgement(Flow *f) noexcept nogil:
    """Never more than we have seen sent; the rest when we have. What lies below it says nothing any more, and is moved along: of
    two positions that are 2^31 apart nobody knows which is the higher one (RFC 1982 3.2)."""
    f.snd_una = f.snd_nxt if after(f.peer_acked, f.snd_nxt) else f.peer_acked
    if after(f.snd_una, f.wire_high):
        f.wire_high = f.snd_una
    if f.flags & FL_REFUSED and after(f.snd_una, f.refused_from):
        f.refused_from = f.snd_una
        if not after(f.refused_to, f.snd_una):
            f.flags &= ~FL_REFUSED


cdef bint on_acked(Flow *f, const Message *m, Outcome *out) noexcept nogil:
    """Whether it acknowledges anything new."""
    cdef bint progress = after(m.position, f.peer_acked)
    if not progress and f.flags & FL_SERIAL_SEEN and <int16_t>(m.serial - f.serial_in) <= 0:
        out.actions &= ~DO_INJECT_ACK           # an older one that was overtaken: its window is not true any more
        return False
    f.flags |= FL_SERIAL_SEEN
    f.serial_in = m.serial
    if progress:
        f.peer_acked = m.position
    f.peer_edge = m.edge if m.edge - m.position < FAR else m.position
    take_acknowledgement(f)
    return progress


cdef bint unknown_flow(const Message *m, Message *answer) noexcept nogil:
    memset(answer, 0, sizeof(Message))
    answer.epoch = m.epoch
    if m.type == MSG_OPEN:
        answer.type = MSG_REJECT
        answer.token = m.own_token
        answer.position = UNKNOWN_HERE
        return True
    if m.type == MSG_DATA and m.flags & DATA_OPENERS:
        return False                            # its token is the sender's own; it does not need an answer
    answer.type = MSG_LEAVE
    answer.flags = LEAVE_QUOTES
    answer.token = m.token
    answer.position = WHY_UNKNOWN_THERE
    return m.token != 0 and (m.type == MSG_PING or m.type == MSG_ACCEPT or MSG_ENGAGED <= m.type <= MSG_RESET)


# ---- timers -----------------------------------------------------------------------------------

cdef inline uint8_t tries_of(const Flow *f, const FlowConfig *c) noexcept nogil:
    if f.state == ST_ARMED:
        return c.probes
    if f.state == ST_EARLY:
        return c.tries + 1                      # its first OPEN is one of them
    return c.pinned_tries if f.flags & FL_PINNED and f.state != ST_ENGAGED else c.tries

cdef inline flow_reason exhausted_because(const Flow *f) noexcept nogil:
    if f.state == ST_OPENING or f.state == ST_EARLY:
        return WHY_NO_ANSWER
    if f.state == ST_ARMED:
        return WHY_NOT_THROUGH_HK0
    return WHY_PEER_NOT_ENGAGED if f.state == ST_BRIDGE else WHY_PEER_SILENT


cdef inline bint counts(Flow *f, const FlowConfig *c, uint64_t now) noexcept nogil:
    """A host that is overloaded is not to leave for that. At least every second try counts: it may be so for ever."""
    if f.state == ST_ENGAGED and now - f.wait_at > c.late and not f.flags & FL_LATE:
        f.flags |= FL_LATE
        return False
    f.flags &= ~FL_LATE
    return True


cdef void flow_timer(Flow *f, const FlowConfig *c, uint64_t now, Outcome *out) noexcept nogil:
    cdef uint8_t state = f.state
    begin(f, out)
    if f.flags & FL_PROMISED and now >= f.edge_moved + rtt(f):
        f.flags &= ~FL_PROMISED
        out.actions |= DO_SEND_ACKED            # the reader pauses: the promise is withdrawn
    if now < f.wait_at:
        return
    if state == ST_LEFT or state == ST_CLOSED:
        step(f, c, EV_TIMER, WHY_NONE, now, out)
        return
    if f.flags & FL_EARLY_WAITS:
        f.flags &= ~(FL_EARLY | FL_EARLY_WAITS)
        f.wire_high = f.snd_nxt
        out.actions |= DO_WIRE_EARLY
        f.wait_at = now + interval(f, c, f.tries)
        return
    if counts(f, c, now):
        f.tries = min(f.tries, <uint8_t>254) + 1
    step(f, c, EV_EXHAUSTED if f.tries > tries_of(f, c) else EV_TIMER, exhausted_because(f), now, out)
    if f.state != state:
        return
    if state == ST_ENGAGED:
        if not f.flags & FL_FINAL_HERE:
            out.actions = out.actions & ~DO_SEND_PING | DO_SEND_ENGAGED
        elif lacks_wire(f):
            out.actions |= DO_INJECT_PROBE      # the answer says whether there is a hole
        # while a free flow's peer is silent the tries follow each other quickly, however slowly it was asked while it
        # answered: leaving is cheap
        f.wait_at = now + interval(f, c, max(f.backoff, f.tries) if f.flags & FL_PINNED else 0)
    elif state == ST_ARMED:
        f.wait_at = now + (c.local_probe << f.tries)
    else:
        f.wait_at = now + interval(f, c, f.tries)


# ---- what is said -----------------------------------------------------------------------------

cdef uint32_t window_edge(Flow *f, uint64_t now) noexcept nogil:
    """The kernel's own, and beyond it a promise while the reader reads. To one that has stopped nothing is
    promised: the far kernel must probe, not retransmit, or it gives the connection up."""
    f.told_edge = f.rcv_edge
    f.flags &= ~FL_PROMISED
    if f.promise > 0 and f.state == ST_ENGAGED and f.rcv_edge != f.rcv_ack and now - f.edge_moved < rtt(f):
        f.told_edge += f.promise
        f.flags |= FL_PROMISED
    return f.told_edge


cdef void flow_compose(Flow *f, uint8_t type, uint64_t now, Message *m) noexcept nogil:
    memset(m, 0, sizeof(Message))
    m.type = type
    m.epoch = f.epoch
    m.token = f.peer_token
    if type == MSG_OPEN or type == MSG_ACCEPT:
        m.own_token = f.token
        m.flags = OPEN_EARLY if type == MSG_OPEN and f.state == ST_EARLY else 0
    elif type == MSG_DATA and f.peer_token == 0:
        m.token = f.token
        m.flags = DATA_OPENERS
    elif type == MSG_ENGAGED:
        m.position = f.wire_high
        m.tsval = f.tsval
        m.flags = 0
        if f.state == ST_ENGAGED:
            m.flags = ENGAGED_FINAL | (ENGAGED_KNOWN if f.flags & FL_FINAL_HERE else 0)
    elif type == MSG_ACKED:
        f.serial_out += 1
        m.serial = f.serial_out
        m.position = f.rcv_ack
        m.edge = window_edge(f, now)
    elif type == MSG_RESET:
        m.position = f.snd_nxt
    elif type == MSG_LEAVE:
        m.position = f.reason
