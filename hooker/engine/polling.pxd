# Waiting for events: sleep, or poll for a moment first.
from libc.stdint cimport uint64_t
from hooker.includes.linux cimport epoll_event
from hooker.engine.ringbuf cimport ring_reader


cdef struct poller:
    uint64_t most              # ns that one wait may poll; 0: never
    uint64_t now               # ns that the next one will
    uint64_t waited, given     # ns of polling since the last judgement, and of that what others had
    uint64_t not_before        # ns, clock: somebody else needs this CPU
    uint64_t penalty           # ns, of the next such pause
    bint brisk                 # the last sleep was short
    uint64_t hits, misses, crowded


cdef void poll_init(poller *p, uint64_t most) noexcept nogil
cdef int wait_events(poller *p, ring_reader *ring, int epoll_fd, epoll_event *events, int room, uint64_t ns) noexcept nogil
