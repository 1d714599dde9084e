# The end of an engaged flow.
from hooker.engine.worker cimport flow, worker

cdef enum:
    RESET_ENGINE = 2              # code of RESET_STREAM

cdef void flow_app_reset(worker *w, flow *f) noexcept nogil        # the application's side is gone with a reset
cdef void flow_fin(worker *w, flow *f) noexcept nogil              # the peer's end of data, behind all of it
cdef void flow_check_end(worker *w, flow *f) noexcept nogil        # both directions done?
cdef void flow_abort(worker *w, flow *f, int why) noexcept nogil   # reset both sides
cdef void reset_application(worker *w, flow *f, int why) noexcept nogil   # the peer's side is gone
cdef void end_time_wait(worker *w, flow *f) noexcept nogil
