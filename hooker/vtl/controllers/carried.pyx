"""``carried``: the carrier sends no more than the path takes (DCCP's CCIDs); what waits for it is bounded.

The window is twice what the path was seen to deliver in its least round trip, and LEAST: always more than the
carrier's own controller lets out, and never seconds of it. Losses and marks change nothing here.
Registered when a carrier asks for it.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from hooker.vtl.controllers.interface cimport (
    Congestion, CongestionAck, congestion_collapse, congestion_fill, congestion_ops,
)

cdef enum:
    LEAST = 256 << 10          # bytes
    MOST = 2 << 20             # bytes: a carrier's queue has room for it (docs/transports.md, 2)
    ROUNDS = 8                 # that a delivery rate holds, at least
    RTT_HOLDS = 10000000000    # ns that a round trip holds, at least

cdef struct Model:
    uint64_t rate[2]           # bytes/s, the highest of this period and of the one before
    uint64_t rtt[2]            # ns, the least, likewise; 0: none
    uint64_t rounds            # of this period
    uint64_t since             # ns

cdef inline Model *M(Congestion *c) noexcept nogil:
    return <Model *>c.model


cdef void carried_init(Congestion *c) noexcept nogil:
    memset(c.model, 0, sizeof(Model))
    c.w.cwnd = LEAST


cdef void see_rate(Model *m, const CongestionAck *a) noexcept nogil:
    m.rounds += a.round_start
    if m.rounds >= ROUNDS:
        m.rate[1], m.rate[0], m.rounds = m.rate[0], 0, 0
    if a.rate > m.rate[0] and (not a.app_limited or a.rate > m.rate[1]):
        m.rate[0] = a.rate


cdef void see_rtt(Model *m, const CongestionAck *a) noexcept nogil:
    if a.now - m.since >= RTT_HOLDS:
        m.rtt[1], m.rtt[0], m.since = m.rtt[0], 0, a.now
    if a.rtt_sample and (m.rtt[0] == 0 or a.latest_rtt < m.rtt[0]):
        m.rtt[0] = a.latest_rtt


cdef void carried_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    cdef Model *m = M(c)
    cdef uint64_t rtt
    cdef double delivered
    see_rate(m, a)
    see_rtt(m, a)
    rtt = min(m.rtt[0], m.rtt[1]) if m.rtt[0] and m.rtt[1] else max(m.rtt[0], m.rtt[1])
    delivered = <double>max(m.rate[0], m.rate[1]) * <double>rtt / 1e9
    c.w.cwnd = <uint64_t>min(2 * delivered + LEAST, <double>MOST)


cdef void carried_on_loss(Congestion *c, uint64_t now) noexcept nogil:
    pass


cdef congestion_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.model = True
OPS.init = carried_init
OPS.on_ack = carried_on_ack
OPS.on_loss = carried_on_loss
OPS.on_persistent = congestion_collapse
congestion_fill(&OPS, b"carried")
