"""Arbitrary datagrams into one endpoint: fresh, or with an association that is up.

Half of them are well-formed up to some point: the connection id is right, the packet number is new, so
that the mutations reach the frames. The peer is a liar who knows everything; it must not break anything.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.vtl.api cimport *
from hooker.vtl.endpoint cimport *
from hooker.vtl.core cimport Assoc
from hooker.vtl.proof cimport PROOF_OPEN_ACK, proof_of
from hooker.vtl.wire cimport (
    DATA_HEADER, FR_OPEN_ACK, HEADER_SIZE, PKT_DATA, PKT_SHORT, frame_size, load32, load64, store64, write_header,
    write_short_header,
)
from fuzz.input cimport Input, next16, next32, next8
from fuzz.side cimport *

cdef enum:
    MAX_STEPS = 400
    MAX_DATAGRAM = 1500

cdef Side victim, peer         # large; one input at a time
cdef Assoc victims             # as the liar sees it


cdef struct Known:             # what the liar knows
    uint64_t theirs, ours      # connection ids
    uint64_t number            # the last packet number used
    bint began                 # the victim began the association


cdef void deliver(const uint8_t *data, uint32_t n, const vtl_addr *source, uint64_t now) noexcept nogil:
    """In a buffer of its own size, so that one byte too far is seen."""
    cdef uint8_t *copy = <uint8_t *>malloc(n if n > 0 else 1)
    cdef int rc
    if copy == NULL:
        return
    memcpy(copy, data, n)
    rc = vtl_recv(victim.ep, copy, n, source, n & 3, now)
    if rc < 0 or rc >= VTL_DROP_REASONS:
        fail("an unknown reason to drop")
    free(copy)


cdef void flight(Side *source, Side *to, Known *k, uint64_t now) noexcept nogil:
    """All that one side sends, to the other: only while the association is made."""
    cdef uint8_t wire[MAX_DATAGRAM]
    cdef uint32_t i, n
    while side_build(source, now):
        for i in range(source.batch.dgram_len):
            n = datagram_copy(source, i, wire)
            if wire[0] & 14 == PKT_DATA and to is &victim:
                k.theirs = load64(wire + 1)
                k.number = load32(wire + 9)
            elif wire[0] & 14 == PKT_DATA:
                k.ours = load64(wire + 1)
            vtl_recv(to.ep, wire, n, &source.addr, 0, now)


cdef void shake_hands(Known *k, bint victim_begins) noexcept nogil:
    cdef vtl_open_info info
    cdef Side *first = &victim if victim_begins else &peer
    cdef Side *second = &peer if victim_begins else &victim
    cdef uint32_t i
    memset(&info, 0, sizeof(info))
    info.locator = 1
    vtl_connect(first.ep, &second.addr, 0)
    k.began = victim_begins
    for i in range(4):
        flight(first, second, k, i)
        flight(second, first, k, i)


cdef void prove(uint8_t *frame, uint32_t n, const Known *k) noexcept nogil:
    """The liar knows the flows' key, too: an OPEN_ACK that comes first has a good proof."""
    cdef uint64_t key[2]
    if n < frame_size(FR_OPEN_ACK) or frame[0] != FR_OPEN_ACK:
        return
    key[0] = key[1] = 0
    victims.cid, victims.peer_cid, victims.initiator = k.theirs, k.ours, k.began
    store64(frame + 8, proof_of(&victims, key, PROOF_OPEN_ACK, 0, load32(frame + 4)))


cdef void known_packet(Input *i, const Known *k, uint64_t number, uint8_t type, uint64_t now) noexcept nogil:
    """A right header, and the input's bytes behind it."""
    cdef uint8_t wire[MAX_DATAGRAM]
    cdef uint32_t n = next16(i) % (MAX_DATAGRAM - HEADER_SIZE), size = DATA_HEADER
    n = min(n, <uint32_t>i.n)
    if type & PKT_SHORT:
        write_short_header(wire, type, k.theirs, number)
    else:
        size = HEADER_SIZE
        write_header(wire, type, k.theirs if type != 1 else 0, number)
    memcpy(wire + size, i.p, n)
    prove(wire + size, n, k)
    i.p += n
    i.n -= n
    deliver(wire, size + n, &peer.addr, now)


cdef void raw_packet(Input *i, const vtl_addr *source, uint64_t now) noexcept nogil:
    cdef uint32_t n = next16(i) % MAX_DATAGRAM
    cdef const uint8_t *p = i.p
    n = min(n, <uint32_t>i.n)
    i.p += n
    i.n -= n
    deliver(p, n, source, now)


cdef uint64_t pass_time(Input *i, uint64_t now) noexcept nogil:
    cdef uint64_t due = vtl_timer(victim.ep)
    cdef uint8_t how = next8(i)
    if how & 1 and due != UINT64_MAX:
        now = max(now, due)
    else:
        now += <uint64_t>1 << (how >> 1 & 31)
    vtl_on_timer(victim.ep, now)
    return now


cdef uint64_t step(Input *i, Known *k, uint64_t now) noexcept nogil:
    cdef uint8_t what = next8(i) & 15
    cdef vtl_addr stranger
    if what < 6:
        k.number += 1
        known_packet(i, k, k.number, PKT_DATA, now)
    elif what == 6:
        k.number += next8(i)
        known_packet(i, k, k.number, PKT_DATA, now)
    elif what == 7:
        known_packet(i, k, next32(i), PKT_DATA, now)
    elif what == 8:
        known_packet(i, k, k.ours if next8(i) & 1 else k.number, next8(i) & 15, now)
    elif what == 9:
        raw_packet(i, &peer.addr, now)
    elif what == 10:
        stranger = peer.addr
        stranger.port += 1
        raw_packet(i, &stranger, now)
    elif what < 13:
        side_act(&victim, i, &peer.addr, now)
    elif what == 13:
        side_build(&victim, now)
    else:
        now = pass_time(i, now)
    return now


cdef void run(Input *i) noexcept nogil:
    cdef Known k
    cdef uint32_t steps = 0, turns = 0
    cdef uint64_t now = 0
    cdef uint8_t how = next8(i)
    cdef Input plain
    memset(&k, 0, sizeof(k))
    memset(&plain, 0, sizeof(plain))
    if not side_init(&victim, 1, i) or not side_init(&peer, 2, &plain):
        return
    if how & 3:
        shake_hands(&k, how & 1)
    while i.n > 0 and steps < MAX_STEPS and failure() == NULL:
        now = step(i, &k, now)
        steps += 1
    while side_build(&victim, now):
        pass
    while vtl_timer(victim.ep) != UINT64_MAX and turns < 5000:
        now = max(now, vtl_timer(victim.ep))    # left alone, it gives everything up
        vtl_on_timer(victim.ep, now)
        while side_build(&victim, now):
            pass
        turns += 1
    if turns == 5000:
        fail("an endpoint left alone does not come to rest")
    elif side_open_flows(&victim) > 0:
        fail("no timer, and flows are open")
    side_check(&victim)


cdef api int one_packets(const uint8_t *data, size_t n) noexcept nogil:
    """0, or 1 when something broke; failure() says what."""
    cdef Input i
    i.p = data
    i.n = n
    forget_failure()
    run(&i)
    side_free(&victim)
    side_free(&peer)
    return failure() != NULL


def replay(bytes data not None):
    """Runs one input; raises AssertionError when it breaks something."""
    if one_packets(data, len(data)):
        raise AssertionError(failure().decode())
