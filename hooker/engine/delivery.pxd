# Peer → application: VTL's bytes into the twin.
from libc.stdint cimport uint8_t
from hooker.engine.worker cimport flow, worker

cdef void deliver(worker *w, flow *f, const uint8_t *data, size_t n, bint stable) noexcept nogil
cdef void deliver_fin(worker *w, flow *f) noexcept nogil
cdef void delivery_flush(worker *w) noexcept nogil                 # before the datagrams' memory is used again
cdef void delivery_writable(worker *w, flow *f) noexcept nogil
cdef void twin_watch(worker *w, flow *f, int how) noexcept nogil  # how: EPOLL_CTL_ADD or _MOD
cdef void delivery_free(worker *w) noexcept nogil
