"""Messages and segments, arbitrary or nearly right, into one flow: its numbers stay possible, and it comes to rest.

Input: a byte of options, then steps. The peer and the local TCP are liars who know token and epoch; they must not make
the machine acknowledge what was not sent, leave the table, put a pinned flow onto the wire, or wait for ever.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.flow.machine cimport *
from hooker.flow.messages cimport *
from fuzz.input cimport Input, next16, next32, next8
from fuzz.side cimport fail, failure, forget_failure

cdef enum:
    MAX_STEPS = 300
    MAX_RESTS = 400             # timers until a flow that was stopped is gone
    MAX_BYTES = 200
    TOKEN = 77

cdef struct Fuzzed:
    Flow f
    FlowConfig c
    Outcome out
    uint64_t now


cdef void check(Fuzzed *z) noexcept nogil:
    cdef uint32_t wire = DO_WIRE_OLDEST | DO_WIRE_EARLY | DO_UNMARK
    if z.f.state >= STATES:
        fail("no such state")
    if z.f.state == ST_ENGAGED and after(z.f.snd_una, z.f.snd_nxt):
        fail("acknowledged what was not sent")
    if z.f.flags & FL_PINNED and (z.f.state == ST_LEFT or z.out.actions & wire):
        fail("a pinned flow goes to the wire")
    if z.out.actions & DO_INJECT and z.f.state != ST_ENGAGED:
        fail("data for a kernel that is not engaged")
    if z.out.actions & (DO_SEND_OPEN | DO_SEND_ACCEPT) and z.f.epoch == 0:
        fail("an epoch of 0")


cdef void say(Fuzzed *z) noexcept nogil:
    """All that is to be sent can be written, is read again as it was, and fits."""
    cdef uint8_t wire[MAX_CONTROL]
    cdef Message m, read
    cdef uint32_t i, n
    for i in range(1, MSG_TYPES):
        if MSG_PONG < i < MSG_OPEN or i == MSG_HELLO:
            continue
        flow_compose(&z.f, <uint8_t>i, z.now, &m)
        n = sign_message(wire, write_message(wire, &m))
        if n > MAX_CONTROL or read_message(wire, n, True, &read) != MESSAGE_FINE or read.type != m.type:
            fail("what is said cannot be read")
        elif read.position != m.position or read.token != m.token or read.epoch != m.epoch:
            fail("what is said is read differently")


cdef void hear(Fuzzed *z, Input *i) noexcept nogil:
    """Bytes of their own size. Most have a right prefix."""
    cdef uint32_t n = next8(i) % MAX_BYTES
    cdef uint8_t how = next8(i)
    cdef uint8_t *copy
    cdef Message m, answer
    n = min(n, <uint32_t>i.n)
    copy = <uint8_t *>malloc(n if n > 0 else 1)
    memcpy(copy, i.p, n)
    i.p += n
    i.n -= n
    if n >= 3 and how & 1:
        copy[0] = MSG_OPEN + copy[0] % (MSG_TYPES - MSG_OPEN)
        copy[2] = z.f.epoch if how & 2 else <uint8_t>(z.f.epoch + 1)
    if read_message(copy, n, how & 4 != 0, &m) == MESSAGE_FINE:
        if how & 8:
            m.position = near_by(z, m.position, m.type)
            m.edge = m.position + m.edge % 5000
        round_trip(copy, n, how & 4 != 0, how & 8 != 0, &m)
        unknown_flow(&m, &answer)
        flow_message(&z.f, &z.c, &m, z.now, &z.out)
    free(copy)


cdef uint32_t near_by(Fuzzed *z, uint32_t position, uint8_t type) noexcept nogil:
    return (z.f.rcv_ack if type == MSG_DATA else z.f.snd_una) + position % 3000 - 500


cdef void round_trip(const uint8_t *data, uint32_t n, bint checked, bint changed, const Message *m) noexcept nogil:
    cdef uint8_t wire[MAX_CONTROL]
    cdef Message again
    cdef uint32_t size = write_message(wire, m)
    if size > MAX_CONTROL or (m.type == MSG_DATA and size > MAX_HEADER):
        fail("a message became too large")
    elif changed or m.type == MSG_DATA:
        return
    elif size + (CRC_SIZE if checked else 0) != n:
        fail("written again it has another size")
    elif read_message(wire, size, False, &again) != MESSAGE_FINE or again.position != m.position:
        fail("written again it is not read")


cdef void emit(Fuzzed *z, Input *i) noexcept nogil:
    cdef Segment s
    cdef uint8_t how = next8(i)
    s.position = next32(i) if how & 1 else z.f.snd_nxt + next8(i) - (next8(i) if how & 2 else 0)
    s.length = next16(i) if how & 4 else 0
    s.ack = next32(i) if how & 8 else z.f.rcv_ack + (next8(i) if how & 16 else 0)
    s.window = next32(i) if how & 32 else next16(i)
    s.tsval = 0
    s.rst = how & 192 == 192
    s.holes = how & 192 == 64
    s.arrived = how & 128 != 0
    flow_segment(&z.f, &z.c, &s, z.now, &z.out)


cdef flow_event local_event(uint8_t what) noexcept nogil:
    what %= 8
    if what < 2:
        return EV_START
    if what == 2:
        return EV_UNMARKED
    if what == 3:
        return EV_CLOSE
    return <flow_event>(EV_DOWN + what - 4)     # PEER_DEAD, STOP, DOUBT


cdef void step(Fuzzed *z, Input *i) noexcept nogil:
    cdef uint8_t what = next8(i) % 10
    cdef uint64_t due = flow_deadline(&z.f)
    z.out.actions = 0
    if what < 4:
        hear(z, i)
    elif what < 7:
        emit(z, i)
    elif what == 7:
        flow_local(&z.f, &z.c, local_event(next8(i)), z.now, &z.out)
    elif what == 8:
        z.now = max(z.now, due) if due != UINT64_MAX else z.now + next32(i)
        flow_timer(&z.f, &z.c, z.now, &z.out)
    elif next8(i) & 1:
        flow_marked(&z.f, z.f.snd_nxt, z.f.snd_nxt + next8(i), z.f.rcv_ack + next8(i))
    else:
        flow_not_taken(&z.f, z.f.snd_una + next8(i))


cdef void rest(Fuzzed *z) noexcept nogil:
    """The engine stops, the connection ends, and nobody says anything any more."""
    cdef uint32_t n = 0
    cdef uint64_t due
    flow_local(&z.f, &z.c, EV_STOP, z.now, &z.out)
    check(z)
    flow_local(&z.f, &z.c, EV_CLOSE, z.now, &z.out)
    due = flow_deadline(&z.f)
    while due != UINT64_MAX and n < MAX_RESTS:
        z.now = max(z.now, due)
        flow_timer(&z.f, &z.c, z.now, &z.out)
        check(z)
        due = flow_deadline(&z.f)
        n += 1
    if z.f.state != ST_GONE:
        fail("a flow that has ended is not gone")


cdef void run(Input *i) noexcept nogil:
    cdef Fuzzed z
    cdef uint8_t how = next8(i)
    cdef uint32_t steps = 0
    memset(&z, 0, sizeof(z))
    flow_defaults(&z.c)
    flow_init(&z.f, ROLE_SERVER if how & 1 else ROLE_CLIENT, TOKEN, 1, 1, 1000 * (how >> 6))
    z.c.repairs = how & 2 != 0
    if how & 4:
        z.f.flags |= FL_PINNED | FL_EARLY
    if how & 8:
        z.f.flags |= FL_EARLY
    z.f.promise = 1000 if how & 16 else 0
    z.now = 1000
    while i.n > 0 and steps < MAX_STEPS and failure() == NULL:
        step(&z, i)
        check(&z)
        say(&z)
        steps += 1
    rest(&z)


cdef api int one_flow(const uint8_t *data, size_t n) noexcept nogil:
    """0, or 1 when something broke; failure() says what."""
    cdef Input i
    i.p = data
    i.n = n
    forget_failure()
    run(&i)
    return failure() != NULL


def replay(bytes data not None):
    """Runs one input; raises AssertionError when it breaks something."""
    if one_flow(data, len(data)):
        raise AssertionError(failure().decode())
