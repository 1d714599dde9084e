# What the protocol's machine decides is done here.
from libc.stdint cimport uint32_t, uint64_t
from hooker.engine.worker cimport flow, peer, stretch, worker
from hooker.engine.slab cimport slab
from hooker.flow.machine cimport Outcome
from hooker.flow.messages cimport Message
from hooker.tcp.segment cimport Segment

cdef struct cause:              # what an Outcome is about
    const Segment *s            # of the local TCP; NULL: nothing of it
    slab *memory                # where its bytes lie; NULL: they cannot be lent
    stretch *r                      # blocks of the peer's
    bint lent                   # out: the transport has some of the bytes

cdef void act(worker *w, flow *f, const Outcome *out, cause *c) noexcept nogil
cdef void act_alone(worker *w, flow *f, const Outcome *out) noexcept nogil    # about nothing that carries bytes
cdef void flow_start(worker *w, flow *f) noexcept nogil       # a client that waits, its peer's engine being there
cdef void flow_turn(worker *w, flow *f) noexcept nogil        # and its turn has come
cdef void flow_early(worker *w, flow *f) noexcept nogil       # a client's, whose service is warm
cdef void flow_wanted(worker *w, flow *f) noexcept nogil      # a client's peer's engine is looked for
# One whose bytes the engine has and cannot bring: both ends hear of it.
cdef void flow_gives_up(worker *w, flow *f, int why) noexcept nogil
cdef void flow_lost(worker *w, flow *f, int why) noexcept nogil       # its association is down; why: it was never up
cdef void flow_ends(worker *w, flow *f) noexcept nogil        # its connection has; who calls it forgets the flow
cdef void flow_closed(worker *w, flow *f) noexcept nogil      # the kernel's socket is gone, and said so
cdef bint has_fin(const flow *f) noexcept nogil               # the kernel of one whose socket is gone has the peer's
cdef void flow_sends_rest(worker *w, flow *f) noexcept nogil   # before its RST is said
cdef void flow_translated(worker *w, flow *f) noexcept nogil   # its service is on another host than it seems
cdef void flow_tells_day(worker *w, flow *f) noexcept nogil     # its TCP's clock, to the peer: it was told long ago
cdef void flow_replaced(worker *w, flow *f) noexcept nogil      # its port is another connection's
cdef void flow_lingered(worker *w, flow *f) noexcept nogil    # and what answered in its place has nothing more to answer
cdef void flow_is_stuck(flow *f) noexcept nogil               # what is sent does not arrive: it is not tried again soon
cdef void flow_doubt(worker *w, flow *f) noexcept nogil       # a sign that the peer has left
cdef void flow_steered(worker *w, flow *f, int why) noexcept nogil          # TCP's for good
cdef void flow_chosen(worker *w, flow *f) noexcept nogil          # the same: what its application wants only TCP has
cdef void flow_cut_off(worker *w, flow *f) noexcept nogil     # its lane is blocked
cdef void unmark_due(worker *w) noexcept nogil                # hk0 has been read: marks that have waited for that go
cdef void flow_due(worker *w, flow *f) noexcept nogil         # its timer
