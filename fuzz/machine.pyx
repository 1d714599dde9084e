"""A byte string drives two endpoints and the network between them, and everything must come out right.

First the input acts: applications open, write, end; datagrams are delivered, lost, doubled, reordered; time
passes. Then the network is perfect and the applications finish: all flows must close, with equal bytes.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset
from hooker.vtl.api cimport *
from hooker.vtl.endpoint cimport *
from fuzz.input cimport Input, next8
from fuzz.side cimport *

cdef enum:
    MAX_STEPS = 600
    MAX_TURNS = 20000          # until all is closed
    TRANSIT = 128              # datagrams on their way; more are lost
    MAX_DATAGRAM = 1500
    DELAY = 1000000            # ns

cdef struct Transit:
    uint8_t *data
    uint32_t n
    uint32_t to
    vtl_addr source
    uint8_t ecn
    uint16_t port              # of the receiver, when it left: who has moved since does not get it

cdef Side side[2]
cdef Transit transit[TRANSIT]
cdef uint32_t waiting = 0
cdef uint8_t path_bits = 0


cdef void put(uint32_t to, const uint8_t *data, uint32_t n, uint8_t ecn) noexcept nogil:
    global waiting
    cdef Transit *t = &transit[waiting]
    if waiting == TRANSIT:
        return
    t.source = side[1 - to].addr
    t.ecn = ecn
    t.port = side[to].addr.port
    t.data = <uint8_t *>malloc(n)
    if t.data == NULL:
        return
    memcpy(t.data, data, n)
    t.n = n
    t.to = to
    waiting += 1


cdef void drop(uint32_t i) noexcept nogil:
    global waiting
    if i >= waiting:
        return
    free(transit[i].data)
    waiting -= 1
    memmove(&transit[i], &transit[i + 1], (waiting - i) * sizeof(Transit))


cdef void deliver(uint32_t i, uint64_t now) noexcept nogil:
    cdef Transit *t = &transit[i]
    if i < waiting and t.port == side[t.to].addr.port:
        vtl_recv(side[t.to].ep, t.data, t.n, &t.source, t.ecn, now)


cdef void send(uint32_t source, uint64_t now) noexcept nogil:
    cdef uint8_t wire[MAX_DATAGRAM]
    cdef uint32_t i, n
    if side_build(&side[source], now):
        for i in range(side[source].batch.dgram_len):
            n = datagram_copy(&side[source], i, wire)
            if side[source].batch.dgram[i].to.port == side[1 - source].addr.port:
                put(1 - source, wire, n, side[source].batch.dgram[i].ecn | path_bits)


cdef uint64_t next_timer() noexcept nogil:
    return min(vtl_timer(side[0].ep), vtl_timer(side[1].ep))


cdef void timers(uint64_t now) noexcept nogil:
    cdef uint32_t i
    for i in range(2):
        if vtl_timer(side[i].ep) <= now:
            vtl_on_timer(side[i].ep, now)


cdef uint64_t step(Input *i, uint64_t now) noexcept nogil:
    global path_bits
    cdef uint8_t what = next8(i)
    cdef uint32_t who = what >> 4 & 1, which
    what &= 15
    if what < 4:
        side_act(&side[who], i, &side[1 - who].addr, now)
    elif what < 7:
        send(who, now)
    elif what < 11:
        deliver(0, now)
        drop(0)
    elif what == 11:
        which = next8(i) % TRANSIT
        deliver(which, now)                     # and once more later
    elif what == 12:
        which = next8(i) % TRANSIT
        deliver(which, now)
        drop(which)
    elif what == 13:
        which = next8(i)
        if which < TRANSIT:
            drop(which)
        elif which > 250:
            path_bits = which & 3               # the path marks: ECT(1), CE
        elif which == 250:
            side[who].addr.port += 2            # the two never meet at one
    elif what == 14:
        if next_timer() != UINT64_MAX:
            now = max(now, next_timer())
        timers(now)
    else:
        now += <uint64_t>1 << (next8(i) & 31)
        timers(now)
    return now


cdef uint64_t quiet_turn(uint64_t now) noexcept nogil:
    """Both applications finish, all that is sent arrives, time goes on only when nothing else does."""
    cdef uint32_t i, before
    for i in range(2):
        side_finish(&side[i])
        while waiting < TRANSIT:
            before = waiting
            send(i, now)
            if waiting == before:
                break
    if waiting > 0:
        now += DELAY
        while waiting > 0:
            deliver(0, now)
            drop(0)
    elif next_timer() != UINT64_MAX:
        now = max(now, next_timer())
    timers(now)
    return now


cdef void compare(const Flow *mine, const Flow *other) noexcept nogil:
    """Who got a FIN has all the bytes the other wrote; without a reset both have."""
    if mine.fin_in and mine.received != other.written:
        fail("a FIN before the last byte")
    if not mine.ended and not other.ended and mine.received != other.written:
        fail("closed before the last byte")


cdef void check() noexcept nogil:
    cdef uint32_t i, k
    for k in range(2):
        side_check(&side[k])
        for i in range(MAX_FLOWS):
            if side[k].own[i].used and side[1 - k].theirs[i].used:
                compare(&side[k].own[i], &side[1 - k].theirs[i])
                compare(&side[1 - k].theirs[i], &side[k].own[i])


cdef void run(Input *i) noexcept nogil:
    global path_bits
    cdef uint32_t steps = 0, turns = 0
    cdef uint64_t now = 0
    path_bits = 0
    if not side_init(&side[0], 1, i) or not side_init(&side[1], 2, i):
        return
    side[0].honest = side[1].honest = True
    while i.n > 0 and steps < MAX_STEPS and failure() == NULL:
        now = step(i, now)
        steps += 1
    while failure() == NULL:
        now = quiet_turn(now)                   # once at least: what was closed last gives its bytes back
        turns += 1
        if side_open_flows(&side[0]) + side_open_flows(&side[1]) == 0:
            break
        if turns == MAX_TURNS:
            fail("flows do not end")
    check()


cdef api int one_machine(const uint8_t *data, size_t n) noexcept nogil:
    """0, or 1 when something broke; failure() says what."""
    cdef Input i
    i.p = data
    i.n = n
    forget_failure()
    run(&i)
    while waiting > 0:
        drop(waiting - 1)
    side_free(&side[0])
    side_free(&side[1])
    return failure() != NULL


def replay(bytes data not None):
    """Runs one input; raises AssertionError when it breaks something."""
    if one_machine(data, len(data)):
        raise AssertionError(failure().decode())
