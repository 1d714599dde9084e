# The ring of events for Python: the worker writes at its head, under its lock; Python takes from its tail
# without it.
from hooker.engine.worker cimport notice, worker

cdef int notices_init(worker *w) noexcept nogil                # -1: no memory
cdef void notices_free(worker *w) noexcept nogil
cdef void notices_trim(worker *w) noexcept nogil               # called once in a while
cdef notice *notice_next(worker *w) noexcept nogil             # to be filled; NULL: there is no room
cdef void notice_said(worker *w) noexcept nogil                # it is filled
