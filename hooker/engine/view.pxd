# What Python is shown of a worker.
from hooker.engine.worker cimport worker

# Takes the worker's lock, for users' threads. Raises UsageError where it cannot be had.
cdef int look(worker *w) except -1
cdef list view_flows(worker *w)
cdef tuple view_table(worker *w, size_t most)
cdef dict view_lanes(worker *w)
# handles: of the worker's transports, in their order
cdef list view_peers(worker *w, list handles)
cdef dict view_counters(worker *w, list handles)
cdef dict view_reasons(worker *w)
cdef dict view_ended(worker *w)
cdef list view_notices(worker *w, size_t most, list handles)
