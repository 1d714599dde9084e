# Application → peer: redirected frames, and what the twin has, into VTL.
from hooker.engine.worker cimport flow, worker

cdef void collect_redirected(worker *w) noexcept nogil
cdef void collect_twin(worker *w, flow *f) noexcept nogil
cdef void collection_retry(worker *w) noexcept nogil        # flows whose turn or room may have come
cdef void collection_feed(worker *w) noexcept nogil         # flows that waited for a slab
cdef void collection_acked(worker *w, flow *f) noexcept nogil
cdef void collection_start(worker *w, flow *f) noexcept nogil
