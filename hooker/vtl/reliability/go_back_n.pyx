"""``go-back-n``: the receiver takes packets in order only; when one is lost, it and all behind it go again.

1. An ordered packet names the one before it in its run (ORDER): it is taken if that one was the last taken.
2. What it drops it does not acknowledge: GO_BACK tells of the last packet it took and of those it dropped.
3. Packet numbers are never used twice, so the sender begins another run: its first packet names none and is
   the new base. What the receiver has taken of the run before may still be acknowledged.
4. An answer about an older run says nothing. If the answers are lost, a probe timeout begins another run.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from hooker.vtl.reliability.interface cimport (
    LIMIT_WINDOW, Reliability, Rewind, reliability_fill, reliability_ops,
)
from hooker.vtl.wire cimport (
    FR_GO_BACK, FR_ORDER, GO_BACK_FRAME, ORDER_FRAME, load32, load64, store32, store64, write_prefix,
)

cdef enum:                     # Reliability.state: packet numbers
    RUN = 0                    # the first of the present run
    PREVIOUS = 1               # the last that left; 0: the next one begins a run
    LAST = 2                   # the last that was taken
    FIRST_DROPPED = 3          # since the answer before
    DROPPED = 4                # the newest

cdef enum:
    WINDOW = 256               # packets


cdef bint may_send(const Reliability *r, uint32_t outstanding) noexcept nogil:
    return outstanding < (r.limits.window if r.limits.window > 0 else WINDOW)


cdef void write_head(Reliability *r, uint64_t pn, uint8_t *out) noexcept nogil:
    out[0] = FR_ORDER
    if r.state[PREVIOUS] == 0:
        r.state[RUN] = r.state[PREVIOUS] = pn
    store32(out + 1, <uint32_t>(pn - r.state[PREVIOUS]))
    r.state[PREVIOUS] = pn


cdef void rewind(Reliability *r) noexcept nogil:
    r.state[PREVIOUS] = 0


cdef uint64_t on_lost(Reliability *r, uint64_t pn) noexcept nogil:
    if pn < r.state[RUN]:
        return 0
    rewind(r)
    return pn


cdef bint on_answer(Reliability *r, const uint8_t *frame, uint64_t next_pn, Rewind *out) noexcept nogil:
    cdef uint64_t last = load64(frame + 8), first = load64(frame + 16), newest = load64(frame + 24)
    out.first = 0
    if not last < first <= newest < next_pn:
        return False
    if r.state[PREVIOUS] > 0 and newest >= r.state[RUN]:
        out.first = max(last + 1, r.state[RUN])
        out.arrived = first                     # perhaps of an older run: then none of this has
        rewind(r)
    return True


cdef bint accepts(Reliability *r, const uint8_t *head, uint64_t pn) noexcept nogil:
    cdef uint64_t back = load32(head + 1)
    if pn > r.state[LAST] and (back == 0 or pn - back == r.state[LAST]):
        return True
    if pn > r.state[LAST]:                      # else it is late, and the sender knows better
        r.state[FIRST_DROPPED] = min(r.state[FIRST_DROPPED], pn) if r.answer_due else pn
        r.state[DROPPED] = max(r.state[DROPPED], pn) if r.answer_due else pn
        r.answer_due = True
    return False


cdef void accepted(Reliability *r, uint64_t pn) noexcept nogil:
    r.state[LAST] = pn
    if r.answer_due and pn >= r.state[DROPPED]:
        r.answer_due = False                    # another run has begun meanwhile
    elif r.answer_due:
        r.state[FIRST_DROPPED] = max(r.state[FIRST_DROPPED], pn + 1)


cdef void write_answer(Reliability *r, uint8_t *out) noexcept nogil:
    write_prefix(out, FR_GO_BACK, 0, 0, 0)
    store64(out + 8, r.state[LAST])
    store64(out + 16, r.state[FIRST_DROPPED])
    store64(out + 24, r.state[DROPPED])
    r.answer_due = False


cdef reliability_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.limits = LIMIT_WINDOW
OPS.repairs = True
OPS.may_send = may_send
OPS.head = ORDER_FRAME
OPS.write_head = write_head
OPS.on_lost = on_lost
OPS.rewind = rewind
OPS.on_answer = on_answer
OPS.accepts = accepts
OPS.accepted = accepted
OPS.answer = GO_BACK_FRAME
OPS.write_answer = write_answer
reliability_fill(&OPS, b"go-back-n", 1)
