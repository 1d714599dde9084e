"""Forward error correction with one repair symbol for a group of packets: the XOR of their bodies.

1. The sender covers packets only where the path is known to lose some, and only the beginning of what it sends
   after it had nothing to send: a repair saves who waits for the end of a message a round trip. A flow
   without end gains nothing, and pays nothing.
2. A group ends with so many packets that a quarter of one is lost in the mean, or when the sender runs dry. Repairs
   are tracked, counted in flight, paced, and at most a quarter of the bytes they cover.
3. What was lost once is covered also later in such a flow, in groups of its own, each with its repair soon behind it:
   a second loss holds back all that came after the first, until a buffer at one of the ends has no room. So flows
   between whose packets there is room pay some packets in a hundred for it; one that fills its path does not.
4. The receiver keeps bodies once it has seen a repair. What it brings back it uses and does not acknowledge: a loss
   that was repaired is a sign of congestion like any other (RFC 9265, 4).
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.vtl.ranges cimport ranges_contains
from hooker.vtl.wire cimport FR_REPAIR, REPAIR_HEADER, load16, load32, load64, store64, write_prefix

cdef enum:
    LARGEST_GROUP = 20         # packets
    SMALLEST_GROUP = 8
    SOON = 32                  # packets, to the repair of one that was lost before
    SHARE = 4                  # a repair byte for so many covered
    MOST_BUDGET = 6000         # bytes of repairs saved up
    IDLE = 4096                # packets without a repair: the peer sends no more of them


cdef void fec_free(Fec *f) noexcept nogil:
    free(f.parity)
    free(f.kept)
    memset(f, 0, sizeof(Fec))


# --- sender

cdef void fec_dry(Fec *f, bint waiting, uint64_t burst) noexcept nogil:
    f.burst = burst
    if not waiting:
        fec_forget(f)


cdef void fec_forget(Fec *f) noexcept nogil:
    f.n = f.longest = f.lengths = f.again = 0
    f.mask = 0


cdef void mix(uint8_t *to, const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        to[i] ^= p[i]


cdef void fec_cover(Fec *f, uint64_t pn, const iovec *v, uint32_t n, uint32_t skip, uint32_t most, bint again) noexcept nogil:
    cdef uint32_t i, at = 0
    cdef size_t part
    if f.parity == NULL:
        f.size = most
        f.parity = <uint8_t *>malloc(most)
    for i in range(n):
        at += v[i].iov_len
    if f.parity == NULL or at - skip > f.size:
        return
    if f.n > 0 and pn - f.first >= FEC_SPAN:
        fec_forget(f)
    if f.n == 0:
        f.first = pn
        memset(f.parity, 0, f.size)
    f.longest = max(f.longest, at - skip)
    f.lengths ^= at - skip
    f.mask |= <uint64_t>1 << (pn - f.first)
    f.n += 1
    f.burst -= min(f.burst, <uint64_t>(at - skip))
    f.again += again
    f.budget = min(f.budget + (at - skip if again else (at - skip) // SHARE), MOST_BUDGET)
    at = 0
    for i in range(n):
        part = v[i].iov_len
        if skip < part:
            mix(f.parity + at, <const uint8_t *>v[i].iov_base + skip, part - skip)
            at += part - skip
        skip -= min(skip, part)


cdef bint fec_full(const Fec *f, uint64_t pn) noexcept nogil:
    """A quarter of a loss for each group, in the mean."""
    cdef uint64_t enough
    if f.again > 0 and pn - f.first >= SOON:
        return True
    if f.n < SMALLEST_GROUP:
        return False
    enough = (f.acked + f.lost) // (4 * f.lost) if f.lost > 0 else LARGEST_GROUP
    return f.n >= min(enough, LARGEST_GROUP)


cdef uint32_t fec_repair_size(Fec *f, uint64_t pn) noexcept nogil:
    if pn - f.first >= FEC_SPAN:
        fec_forget(f)                               # too late: the receiver keeps no more
    if f.n == 0 or f.budget < f.longest:
        return 0
    return REPAIR_HEADER + f.longest


cdef void fec_write(Fec *f, uint8_t *p) noexcept nogil:
    write_prefix(p, FR_REPAIR, 0, f.longest, f.lengths)
    store64(p + 8, f.first)
    store64(p + 16, f.mask)
    memcpy(p + REPAIR_HEADER, f.parity, f.longest)
    f.budget -= f.longest
    f.sent += 1
    fec_forget(f)


# --- receiver

cdef inline uint8_t *place(const Fec *f, uint32_t i) noexcept nogil:
    return <uint8_t *>(f.kept + 1) + <size_t>i * f.size


cdef void fec_keep(Fec *f, uint64_t pn, const uint8_t *body, uint32_t n) noexcept nogil:
    cdef uint32_t i = pn % FEC_SPAN
    f.idle += 1
    if f.idle > IDLE:
        free(f.kept)
        f.kept = NULL
    elif n <= f.size:
        f.kept.pn[i] = pn
        f.kept.len[i] = n
        memcpy(place(f, i), body, n)


cdef uint32_t fec_rebuilt(Fec *f, const uint8_t **body) noexcept nogil:
    cdef uint32_t n = f.rebuilt
    f.rebuilt = 0
    body[0] = place(f, FEC_SPAN)
    return n


cdef void fec_on_repair(Fec *f, const uint8_t *frame, const uint8_t *parity, uint32_t n, uint32_t most,
                        const RangeSet *received, uint64_t floor) noexcept nogil:
    cdef uint32_t length = load32(frame + 4), i, k, missing = 0
    cdef uint64_t pn, first = load64(frame + 8), mask = load64(frame + 16)
    cdef uint8_t *body
    f.idle = 0
    if f.size == 0:
        f.size = most
    if f.kept == NULL:
        f.kept = <Kept *>malloc(sizeof(Kept) + <size_t>(FEC_SPAN + 1) * f.size)
        if f.kept != NULL:
            memset(f.kept, 0, sizeof(Kept))
        return                                      # the first one only says that there will be more
    if f.rebuilding or n > f.size or first == 0 or first >> 62:
        return
    body = place(f, FEC_SPAN)
    f.rebuilt = 0                                   # a packet has one REPAIR, or the last one counts
    memcpy(body, parity, n)
    for i in range(FEC_SPAN):
        pn = first + i
        if not mask >> i & 1:
            continue
        k = pn % FEC_SPAN
        if f.kept.pn[k] == pn and f.kept.len[k] <= n:
            mix(body, place(f, k), f.kept.len[k])
            length ^= f.kept.len[k]
        elif pn < floor or ranges_contains(received, pn) or missing == 1:
            return
        else:
            missing += 1
    if missing == 1 and length <= n:
        f.rebuilt = length
        f.repaired += length > 0
