# The life of a flow: held, then engaged or released, then closed.
from libc.stdint cimport uint32_t, uint64_t
from hooker.includes.hk cimport hk_event
from hooker.vtl.api cimport vtl_addr, vtl_assoc, vtl_open_info, vtl_stream
from hooker.engine.worker cimport flow, reason, worker


# from the kernel
cdef void on_syn(worker *w, const hk_event *e) noexcept nogil
cdef void on_established(worker *w, const hk_event *e) noexcept nogil
cdef void on_wire_released(worker *w, const hk_event *e) noexcept nogil
cdef void on_stray(worker *w, const hk_event *e) noexcept nogil
cdef void on_app_closed(worker *w, const hk_event *e) noexcept nogil

# from VTL
cdef void on_opened(worker *w, vtl_stream *s, const vtl_open_info *info) noexcept nogil
cdef void on_accepted(worker *w, vtl_stream *s) noexcept nogil
cdef void on_rejected(worker *w, vtl_stream *s) noexcept nogil
cdef void on_confirmed(worker *w, vtl_stream *s) noexcept nogil
cdef void on_cancelled(worker *w, vtl_stream *s) noexcept nogil
cdef void on_stream_reset(worker *w, vtl_stream *s, uint32_t code) noexcept nogil
cdef void on_stream_closed(worker *w, vtl_stream *s) noexcept nogil

# from the control plane
cdef void flows_routed(worker *w) noexcept nogil                   # the routing rule may be there

# time
cdef uint64_t flows_deadline(worker *w) noexcept nogil
cdef void flows_on_timer(worker *w) noexcept nogil
cdef void flows_sweep(worker *w) noexcept nogil                   # what an event was lost for, or never comes
cdef void flows_stop(worker *w) noexcept nogil
cdef bint flows_settled(worker *w) noexcept nogil                  # no application's socket has anything of ours
