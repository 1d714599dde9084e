"""DATA that its flow cannot take yet: behind an OPEN, until a segment of the local socket has come through hk0, and the rest of
a segment of which the local TCP's window has taken a part (docs/flow.md, 8.3).

The first request of a connection to a warm service comes so, and waits for the local probe's answer, microseconds as a rule.
Peers choose what is kept, so it is little: STASH cells for all, of which an association has a quarter; a flow has STASH_SERVER or
STASH_CLIENT. What finds no room is refused, and TCP repeats it. To forget is always right: nothing of it was acknowledged.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from hooker.engine.cells cimport CELL_BYTES, cell, cell_give, cell_take
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ROLE_CLIENT
from hooker.flow.messages cimport DATA_FIN, MSG_DATA, Message

cdef enum:
    REST = 65536               # bytes


cdef inline bint has_room(const worker *w, const flow *f, uint32_t cells) noexcept nogil:
    cdef uint32_t most = STASH_CLIENT if f.f.role == ROLE_CLIENT else STASH_SERVER
    return (f.active.stashed + cells <= most and w.stash.used + cells <= STASH
            and (f.p == NULL or f.p.stashed + cells <= STASH // 4))


cdef cell *append(worker *w, flow *f) noexcept nogil:
    """A cell, of which there is one."""
    cdef cell *k = cell_take(&w.stash)
    f.active.stashed += 1
    if f.p != NULL:
        f.p.stashed += 1
    if f.active.stash != NULL:
        k.next, f.active.stash.next = f.active.stash.next, k
    else:
        k.next = k
    f.active.stash = k
    return k


cdef cell *stash_take(worker *w, flow *f) noexcept nogil:
    cdef cell *last = f.active.stash
    cdef cell *k = NULL
    if last != NULL:
        k, last.next = last.next, NULL
    f.active.stash = NULL
    if f.p != NULL:
        f.p.stashed -= f.active.stashed
    f.active.stashed = 0
    return k


cdef bint stash_keep(worker *w, flow *f, const stretch *r, uint32_t position) noexcept nogil:
    cdef uint32_t at = position - r.position, part = 1, done, room, i
    cdef uint32_t cells = (r.n - at + CELL_BYTES - 1) // CELL_BYTES
    cdef cell *k
    if cells == 0:
        cells = 1                       # a FIN alone
    if not has_room(w, f, cells):
        return False
    done = at
    while part <= r.count and done >= r.part[part].iov_len:
        done -= <uint32_t>r.part[part].iov_len
        part += 1
    for i in range(cells):
        k = append(w, f)
        k.position, k.n, k.flags = r.position + at, 0, 0
        while part <= r.count and k.n < CELL_BYTES:
            room = min(<uint32_t>(CELL_BYTES - k.n), <uint32_t>(r.part[part].iov_len - done))
            memcpy(k.data + k.n, <uint8_t *>r.part[part].iov_base + done, room)
            k.n += <uint16_t>room
            done += room
            if done == r.part[part].iov_len:
                part += 1
                done = 0
        at += k.n
    k.flags = r.flags                   # they belong to the last byte
    w.n.early_kept += 1
    return True


cdef inline bint has_fin(const flow *f) noexcept nogil:
    return f.active.stash != NULL and f.active.stash.flags & DATA_FIN


cdef uint32_t not_here(const flow *f, uint32_t position) noexcept nogil:
    """The first position from there on that no cell has."""
    cdef const cell *last = f.active.stash
    cdef const cell *k = last.next if last != NULL else NULL
    while k != NULL:
        if <int32_t>(position - k.position) >= 0 and <int32_t>(k.position + k.n - position) > 0:
            position = k.position + k.n
            k = last.next
        else:
            k = k.next if k != last else NULL
    return position


cdef bint stash_rest(worker *w, flow *f, const stretch *r) noexcept nogil:
    """No more than a segment: that much is shown beyond a window. What else is too much is a window that has shrunk. TCP repeats
    what waits here: it is kept once."""
    cdef uint32_t end = r.position + r.n
    cdef uint32_t at = f.f.rcv_edge if <int32_t>(f.f.rcv_edge - r.position) > 0 else r.position
    at = not_here(f, at)
    if <int32_t>(end - at) < 0 or (end == at and (not r.flags & DATA_FIN or has_fin(f))):
        return True
    return end - f.f.rcv_edge <= REST and w.stash.used < STASH // 2 and stash_keep(w, f, r, at)


cdef bint stash_fits(const flow *f) noexcept nogil:
    cdef const cell *last = f.active.stash
    cdef const cell *k = last
    if not f.bits & F_TWIN:
        return True
    while k != NULL:
        if <int32_t>(f.f.rcv_edge - k.position) > 0:
            return True
        k = k.next if k.next != last else NULL
    return False


cdef void stash_as_said(const flow *f, cell *k, Message *m, stretch *r) noexcept nogil:
    memset(m, 0, sizeof(Message))
    m.type, m.flags, m.epoch, m.position, m.data_n = MSG_DATA, k.flags, f.f.epoch, k.position, k.n
    r.owner, r.next_used, r.position, r.n, r.epoch, r.flags = NULL, NULL, k.position, k.n, f.f.epoch, k.flags
    r.count = 1 if k.n else 0
    r.part[1].iov_base, r.part[1].iov_len = k.data, k.n


cdef void stash_drop(worker *w, flow *f) noexcept nogil:
    cdef cell *k = stash_take(w, f) if f.active != NULL else NULL
    cdef cell *following
    while k != NULL:
        following = k.next
        cell_give(&w.stash, k)
        k = following
