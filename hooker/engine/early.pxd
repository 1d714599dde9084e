# OPENs that came before their flow.
from libc.stdint cimport uint32_t, uint64_t
from hooker.vtl.api cimport vtl_open_info, vtl_stream
from hooker.engine.worker cimport worker

cdef int early_keep(worker *w, vtl_stream *s, const vtl_open_info *info, uint64_t until) noexcept nogil   # -1: no room
cdef vtl_stream *early_take(worker *w, uint64_t locator, vtl_open_info *info) noexcept nogil      # or NULL
cdef void early_forget(worker *w, vtl_stream *s) noexcept nogil
cdef void early_expire(worker *w, uint32_t code) noexcept nogil                                         # rejects them
cdef void early_free(worker *w) noexcept nogil
