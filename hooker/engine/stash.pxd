# DATA that its flow cannot take yet.
from libc.stdint cimport uint32_t
from hooker.engine.cells cimport cell
from hooker.engine.worker cimport flow, stretch, worker
from hooker.flow.messages cimport Message

# All of it from there on, or False.
cdef bint stash_keep(worker *w, flow *f, const stretch *r, uint32_t position) noexcept nogil
# The same of what exceeds the local TCP's window.
cdef bint stash_rest(worker *w, flow *f, const stretch *r) noexcept nogil
cdef bint stash_fits(const flow *f) noexcept nogil            # the local TCP takes some of it now
cdef cell *stash_take(worker *w, flow *f) noexcept nogil      # all of it; its cells are the caller's now
# One of them, as if it came now.
cdef void stash_as_said(const flow *f, cell *k, Message *m, stretch *r) noexcept nogil
cdef void stash_drop(worker *w, flow *f) noexcept nogil
