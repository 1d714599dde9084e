from hooker.engine.worker cimport flow, worker

# If nothing of it is under way, or left to say.
cdef void flow_rests(worker *w, flow *f) noexcept nogil
cdef void flow_resumes(worker *w, flow *f) noexcept nogil


cdef inline void awake(worker *w, flow *f) noexcept nogil:
    """Before anything else is done with a flow: by a segment, a message, a timer, an event, a turn."""
    if f.active == NULL:
        flow_resumes(w, f)
