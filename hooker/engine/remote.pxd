# Blocks and messages of peers' engines.
from libc.stdint cimport uint8_t
from hooker.engine.worker cimport flow, stretch, worker
from hooker.vtl.api cimport vtl_assoc, vtl_block

cdef int runs_init(worker *w) noexcept nogil                  # 0, or -1: no memory
cdef void runs_free(worker *w) noexcept nogil
cdef void on_block(worker *w, vtl_assoc *a, const vtl_block *b, bint stable) noexcept nogil
cdef void on_message(worker *w, vtl_assoc *a, const uint8_t *p, size_t n) noexcept nogil
cdef void flush_runs(worker *w) noexcept nogil                # before the memory of a batch of datagrams is used again
cdef void meet_early(worker *w, flow *f) noexcept nogil       # OPENs that came before this server's flow
