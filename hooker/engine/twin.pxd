from libc.stdint cimport uint32_t
from hooker.includes.hk cimport hk_event

cdef int twin_create(const hk_event *est) noexcept nogil       # fd, or -errno
cdef void twin_bound(int fd) noexcept nogil                     # from now on little waits in it unread
cdef void twin_prompt(int fd) noexcept nogil                    # from now on nothing waits for an ACK
cdef void twin_discard(int fd) noexcept nogil                  # close without a packet
cdef void twin_finish(int fd) noexcept nogil                   # close in order (both FINs are out)
cdef void twin_abort(int fd) noexcept nogil                    # close with RST
cdef int twin_available(int fd) noexcept nogil                 # bytes that can be read, or -errno
cdef int twin_unsent(int fd) noexcept nogil                    # bytes it has not sent yet, and a FIN
cdef uint32_t twin_piece(const hk_event *est) noexcept nogil      # bytes in one segment on the wire
