"""Bytes that a peer has given up: the local TCP gets zeros, and users are told (docs/flow.md, 8.8).

Transports report holes only where both hosts have chosen a function that gives bytes up. Nothing is filled at
or above the highest position that the local TCP was given, so never the end, and nothing is kept: what is
not filled now the peer's TCP repeats. Who lies of holes spoils his own stream, as with DATA, and costs no
more than a window of zeros.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from hooker.engine.actions cimport act, cause
from hooker.engine.flows cimport tell_hole
from hooker.engine.index cimport flow_by_token
from hooker.engine.peers cimport peer_of
from hooker.engine.remote cimport flush_run
from hooker.engine.rest cimport awake
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ST_ENGAGED, Outcome, flow_message
from hooker.flow.messages cimport DATA_PSH, MSG_DATA, Message
from hooker.tcp.numbers cimport NOWHERE, position_of

cdef enum:
    PIECE = 32768              # bytes

cdef uint8_t ZEROS[32768]      # PIECE
memset(ZEROS, 0, sizeof(ZEROS))


cdef void fill(worker *w, flow *f, uint64_t start, uint32_t n, uint8_t epoch) noexcept nogil:
    """As if the peer had sent zeros."""
    cdef Message m
    cdef Outcome out
    cdef stretch r
    cdef cause c
    memset(&m, 0, sizeof(m))
    m.type, m.flags, m.epoch, m.position, m.data_n = MSG_DATA, DATA_PSH, epoch, <uint32_t>start, n
    r.owner, r.next_used, r.position, r.n, r.epoch, r.flags = NULL, NULL, m.position, n, epoch, DATA_PSH
    r.count = 1
    r.part[1].iov_base, r.part[1].iov_len = ZEROS, n
    flow_message(&f.f, config_of(w, f), &m, w.now, &out)
    memset(&c, 0, sizeof(c))
    c.r = &r
    act(w, f, &out, &c)


cdef void on_hole(worker *w, Association *a, const Message *m) noexcept nogil:
    cdef peer *p = peer_of(w, a)
    cdef flow *f = flow_by_token(w, <uint32_t>m.token)
    cdef uint64_t start, end
    cdef uint32_t n
    if p == NULL or f == NULL or f.p != p or m.epoch != f.f.epoch:
        return
    awake(w, f)
    if f.active.gather != NULL:
        flush_run(w, f.active.gather)                  # what came before it
    if f.f.state != ST_ENGAGED or not f.bits & F_TWIN or f.bits & F_FORGET:
        return
    start = position_of(m.position, 0, f.active.t.down_handed)
    if start == NOWHERE:
        return
    end = min(start + m.data_n, f.active.t.down_most, f.active.t.down_edge)
    start = max(start, f.active.t.down_handed)
    if start < end:
        w.n.holes_filled += 1
        w.n.bytes_zeroed += end - start
        tell_hole(w, f, start, end - start)
    while start < end and f.f.state == ST_ENGAGED:
        n = <uint32_t>min(end - start, <uint64_t>PIECE)
        fill(w, f, start, n, m.epoch)
        start += n
