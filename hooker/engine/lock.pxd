# The worker's lock. It knows its holder: a tap or a controller, which the worker calls, may not wait for it.
from libc.stdint cimport uint64_t
from hooker.includes.linux cimport (
    CLOCK_MONOTONIC, clock_gettime, hk_load64, hk_store64, pthread_mutex_clocklock, pthread_mutex_init,
    pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock, pthread_self, timespec,
)

cdef struct worker_lock:
    pthread_mutex_t mutex
    uint64_t holder            # a thread, or 0

cdef enum lock_result:
    LOCK_TAKEN = 0
    LOCK_OWN = 1               # the caller has it already
    LOCK_BUSY = 2              # the time is over


cdef inline void lock_init(worker_lock *l) noexcept nogil:
    pthread_mutex_init(&l.mutex, NULL)
    l.holder = 0


cdef inline void lock_take(worker_lock *l) noexcept nogil:
    pthread_mutex_lock(&l.mutex)
    hk_store64(&l.holder, <uint64_t>pthread_self())


cdef inline void lock_give(worker_lock *l) noexcept nogil:
    hk_store64(&l.holder, 0)
    pthread_mutex_unlock(&l.mutex)


cdef inline int lock_try(worker_lock *l, long seconds) noexcept nogil:
    """For all but the worker: never waits for itself, nor for ever."""
    cdef timespec until
    if hk_load64(&l.holder) == <uint64_t>pthread_self():
        return LOCK_OWN
    clock_gettime(CLOCK_MONOTONIC, &until)
    until.tv_sec += seconds
    if pthread_mutex_clocklock(&l.mutex, CLOCK_MONOTONIC, &until):
        return LOCK_BUSY
    hk_store64(&l.holder, <uint64_t>pthread_self())
    return LOCK_TAKEN
