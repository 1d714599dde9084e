# What the transport has of the local TCPs' bytes, with a share for each peer.
from libc.stdint cimport uint8_t, uint32_t
from hooker.engine.worker cimport flow, lot, peer, worker
from hooker.engine.slab cimport slab

# The owner of n bytes of the flow's, that stand in the slab at `data`, or in a copy then. NULL: they are beyond its peer's share.
cdef lot *lent_for(worker *w, flow *f, slab *memory, const uint8_t **data, uint32_t n) noexcept nogil
# The same for bytes that nobody sends again, be they beyond the share. NULL: no memory, or its association is down.
cdef lot *lent_frame(worker *w, flow *f, slab *memory, const uint8_t **data, uint32_t n) noexcept nogil
cdef bint lent_room(const worker *w, const peer *p) noexcept nogil  # its share of the slabs is not used up
# n bytes of it are lent now, or once more to somebody else; whether they stand in the slab.
cdef bint lent_taken(lot *l, uint32_t n) noexcept nogil
cdef void lent_not(worker *w, lot *l) noexcept nogil          # they are not
cdef void lent_back(worker *w, lot *l, size_t n) noexcept nogil       # n bytes of it are given back
cdef void lent_end(peer *p) noexcept nogil                    # its association is down
