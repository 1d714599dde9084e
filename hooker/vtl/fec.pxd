# Forward error correction: the XOR of a few packets, which brings back one of them without a round trip.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from hooker.vtl.api cimport iovec
from hooker.vtl.ranges cimport RangeSet


cdef enum:
    FEC_MEMORY = 4 << 20       # bytes over which the loss rate is averaged
    FEC_SPAN = 64              # packet numbers from the first packet covered to the last
    FEC_ROUNDS = 20            # round trips for which a path that had room counts as one that has

cdef struct Kept:              # bodies of the last packets received; their bytes follow
    uint64_t pn[FEC_SPAN]
    uint32_t len[FEC_SPAN]

cdef struct Fec:               # zeroed memory is one that does nothing
    # what is looked at for each packet comes first
    Kept *kept                 # FEC_SPAN places, and one for what is rebuilt; NULL: the peer sends no repairs
    bint rebuilding            # the frames at hand are of a packet brought back
    # sender: the group of packets not covered yet
    uint32_t n, again          # packets; those of them with something that was lost before
    uint64_t burst             # bytes that may still be covered
    uint64_t room_at           # ns: when there was nothing to send, and little in flight; 0: not yet
    uint64_t acked, lost       # bytes, aging: what the path does to our packets
    uint8_t *parity
    uint32_t size              # bytes, of parity and of each place in `kept`
    uint32_t longest, lengths  # bytes: the longest body; all lengths, XOR
    uint32_t idle              # packets kept since the last repair
    uint32_t rebuilt           # bytes of a packet brought back
    uint64_t first, mask       # packet number of the first; bit i: first + i is covered
    int64_t budget             # bytes of repairs
    uint64_t sent, repaired    # repairs; packets brought back


cdef inline uint64_t fec_memory(uint32_t most) noexcept nogil:      # bytes of `kept`
    return sizeof(Kept) + <uint64_t>(FEC_SPAN + 1) * most

cdef inline bint fec_lossy(const Fec *f) noexcept nogil:
    """More than 0.5 %, and not by one accident."""
    return f.lost > 5000 and 200 * f.lost > f.acked + f.lost

cdef inline void fec_note(Fec *f, uint64_t acked, uint64_t lost) noexcept nogil:    # bytes
    f.acked += acked
    f.lost += lost
    if f.acked + f.lost > FEC_MEMORY:
        f.acked >>= 1
        f.lost >>= 1

cdef inline bint fec_covering(const Fec *f) noexcept nogil:
    return f.burst > 0 and fec_lossy(f)

cdef inline bint fec_covers_again(const Fec *f, uint64_t now, uint64_t srtt) noexcept nogil:
    """What was lost before, also where nothing else is covered."""
    return f.room_at > 0 and now - f.room_at < FEC_ROUNDS * srtt and fec_lossy(f)

cdef void fec_free(Fec *f) noexcept nogil                      # and zeroes it

# Nothing more to send. waiting: for ACKs; burst: bytes to be covered when there is something again.
cdef void fec_dry(Fec *f, bint waiting, uint64_t burst) noexcept nogil

# The packet just built, in pieces, `skip` bytes of which are its header. `most`: no body is longer. `again`: it has something
# that was lost before.
cdef void fec_cover(Fec *f, uint64_t pn, const iovec *v, uint32_t n, uint32_t skip, uint32_t most, bint again) noexcept nogil
cdef bint fec_full(const Fec *f, uint64_t pn) noexcept nogil   # before packet `pn` the group waits for its repair
# Bytes of the frame, in packet `pn`; 0: none is to be sent.
cdef uint32_t fec_repair_size(Fec *f, uint64_t pn) noexcept nogil
cdef void fec_write(Fec *f, uint8_t *p) noexcept nogil         # the REPAIR frame; the group begins anew
cdef void fec_forget(Fec *f) noexcept nogil                    # the group is given up

cdef void fec_keep(Fec *f, uint64_t pn, const uint8_t *body, uint32_t n) noexcept nogil
# A REPAIR frame, and the body it brings back if one packet of its group is missing, and no more: 0 bytes otherwise.
cdef void fec_on_repair(Fec *f, const uint8_t *frame, const uint8_t *parity, uint32_t n, uint32_t most,
                        const RangeSet *received, uint64_t floor) noexcept nogil
cdef uint32_t fec_rebuilt(Fec *f, const uint8_t **body) noexcept nogil      # once
