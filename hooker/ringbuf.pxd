from hooker.worker cimport ring_reader

cdef int ring_attach(ring_reader *r, int fd, int size) noexcept nogil    # 0, or -errno
cdef void ring_detach(ring_reader *r) noexcept nogil
cdef const void *ring_next(ring_reader *r) noexcept nogil                # NULL: nothing
cdef void ring_release(ring_reader *r) noexcept nogil
