from hooker.vtl.core cimport Endpoint

cdef void reap(Endpoint *ep) noexcept nogil     # ends and frees what is done
