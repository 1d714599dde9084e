"""Services whose segments do not come through hk0, though the lane is open.

Where this host translates a service's address (kube-proxy does), marked segments come out of hk0 with
other addresses than the socket has, and are nobody's; a firewall may drop one service's. The flow that
finds out has waited for it, so others do not: the service is left to TCP, for FIRST at the beginning, and
twice as long each time, up to half an hour. For a server it is its own address and port. Only our own wait
counts, not what the peer says: a socket that had the mark for ALONE, with the rule that leads it, has been
asked and would have answered.

When that time is over one flow tries it, and the others wait for TEST.

The table is small: of two services with one place the later is remembered.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.engine.unread cimport is_read, was_full
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ROLE_CLIENT
from hooker.includes.siphash cimport siphash24

cdef enum:
    FIRST = 8                  # s
    PAUSES = 8                 # doublings
    ALONE = 300000000          # ns
    TEST = 3000000000          # ns


cdef void name_of(const flow *f, cut *out) noexcept nogil:
    memset(out, 0, sizeof(cut))
    out.role = f.f.role
    if f.f.role == ROLE_CLIENT:
        memcpy(out.ip, f.ends.remote, 16)
        out.port = f.ends.remote_port
    else:
        memcpy(out.ip, f.ends.local, 16)
        out.port = f.ends.local_port


cdef uint32_t place_of(const worker *w, const cut *who) noexcept nogil:
    return <uint32_t>siphash24(w.scatter, <const uint8_t *>who, 19) & (CUTS - 1)     # ip, port, role


cdef bint is_same(const cut *one, const cut *other) noexcept nogil:
    return memcmp(one.ip, other.ip, 16) == 0 and one.port == other.port and one.role == other.role


cdef cut *cut_of(worker *w, cut *table, const flow *f, bint take) noexcept nogil:
    cdef cut who
    cdef cut *at
    name_of(f, &who)
    at = &table[place_of(w, &who)]
    if not is_same(at, &who):
        if not take:
            return NULL
        at[0] = who
    return at


cdef void cut_try(worker *w, const flow *f) noexcept nogil:
    cdef cut *at = cut_of(w, w.cuts, f, False)
    if at != NULL and at.until <= w.now:
        at.tester = f.id
        at.until = w.now + TEST


cdef bint cut_note(worker *w, const flow *f) noexcept nogil:
    if not w.ruled_ns or not is_read(w, max(f.active.armed_ns, w.ruled_ns) + ALONE):
        return False
    if was_full(w, f.active.armed_ns):
        w.n.hk0_behind += 1
        return False
    cut_learn(w, f)
    return True


cdef void cut_learn(worker *w, const flow *f) noexcept nogil:
    cdef cut *at = cut_of(w, w.cuts, f, True)
    if at.until > w.now and at.tester != f.id:
        return                          # others of the same moment have said so
    at.tester = 0
    at.until = w.now + (<uint64_t>FIRST * 1000000000 << at.pauses)
    if at.pauses < PAUSES:
        at.pauses += 1
    w.n.services_cut += 1


cdef void cut_over(worker *w, const flow *f) noexcept nogil:
    cdef cut *at = cut_of(w, w.cuts, f, False)
    if at != NULL:
        memset(at, 0, sizeof(cut))


cdef uint64_t cut_until(worker *w, const flow *f) noexcept nogil:
    cdef const cut *at = cut_of(w, w.cuts, f, False)
    if at == NULL or at.until <= w.now or (at.tester == f.id and f.id != 0):
        return 0
    return at.until
