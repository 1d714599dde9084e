"""A thread that asks the kernel for next hops (next_hop.pyx), and two queues between it and the worker.

Each queue has one writer and one reader, so neither waits for the other, nor for a lock. The thread holds no
lock of Python's and runs nothing of anybody's. When the worker leaves while the kernel lets a question wait,
the thread ends behind it, and frees what both had.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from hooker.carriers.next_hop cimport *
from hooker.includes.linux cimport *

cdef enum:
    PLACES = 64                # of each queue: a power of two
    STACK = 256 << 10          # bytes

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, const char *name)
    enum:
        PR_SET_NAME

cdef struct Question:
    uint8_t ip[16]
    uint8_t local[16]
    uint32_t round

cdef struct Answer:
    NextHop hop
    uint32_t round

cdef struct Resolver:
    NextHops kernel            # the thread's, as soon as it runs
    int wake                   # eventfd: there are questions, or the worker has left
    int process                # a child that was forked has no such thread
    uint32_t left              # by the worker
    uint32_t holders           # the worker, the thread
    uint32_t asked, heard      # questions written and read, counted
    uint32_t answered, taken   # answers written and read
    Question questions[PLACES]
    Answer answers[PLACES]


cdef void drop(Resolver *r) noexcept nogil:
    if hk_subtract32(&r.holders, 1) == 0:
        next_hops_close(&r.kernel)
        close(r.wake)
        free(r)


cdef void *resolve(void *context) noexcept nogil:
    cdef Resolver *r = <Resolver *>context
    cdef Question *q
    cdef Answer *a
    cdef uint64_t times
    prctl(PR_SET_NAME, b"hk-next-hops")           # as /proc shows it
    while not hk_load32(&r.left):
        if r.heard == hk_load32(&r.asked):
            if read(r.wake, &times, sizeof(times)) < 0 and errno != EINTR:
                break
            continue
        q, a = &r.questions[r.heard % PLACES], &r.answers[r.answered % PLACES]
        memcpy(a.hop.ip, q.ip, 16)
        memcpy(a.hop.local, q.local, 16)
        a.round = q.round
        next_hop_find(&r.kernel, &a.hop)
        hk_store32(&r.answered, r.answered + 1)    # there is room: no more are asked for than answers have
        hk_store32(&r.heard, r.heard + 1)
    drop(r)
    return NULL


cdef int start_thread(Resolver *r) noexcept nogil:
    """0, or an errno. Signals are for the threads of users: this one takes none."""
    cdef pthread_attr_t attributes
    cdef pthread_t thread
    cdef sigset_t all_, before
    cdef int err = pthread_attr_init(&attributes)
    if err:
        return err
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED)
    pthread_attr_setstacksize(&attributes, STACK)
    sigfillset(&all_)
    pthread_sigmask(SIG_SETMASK, &all_, &before)
    err = pthread_create(&thread, &attributes, resolve, r)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)
    return err


cdef int resolver_start(Resolver **out) noexcept nogil:
    cdef Resolver *r = <Resolver *>calloc(1, sizeof(Resolver))
    cdef int err
    if r == NULL:
        return -ENOBUFS
    err = next_hops_open(&r.kernel)
    if err < 0:
        free(r)
        return err
    r.holders, r.process = 2, getpid()
    r.wake = eventfd(0, EFD_CLOEXEC)
    err = errno if r.wake < 0 else start_thread(r)
    if err:
        r.holders = 1
        drop(r)
        return -err
    out[0] = r
    return 0


cdef void resolver_leave(Resolver *r) noexcept nogil:
    cdef uint64_t one = 1
    if r.process != getpid():
        r.holders = 1
        drop(r)
        return
    hk_store32(&r.left, 1)
    write(r.wake, &one, sizeof(one))
    drop(r)


cdef bint resolver_ask(Resolver *r, const uint8_t *ip, const uint8_t *local, uint32_t round_) noexcept nogil:
    cdef Question *q = &r.questions[r.asked % PLACES]
    cdef uint64_t one = 1
    if r.asked - r.taken >= PLACES:
        return False
    memcpy(q.ip, ip, 16)
    memcpy(q.local, local, 16)
    q.round = round_
    hk_store32(&r.asked, r.asked + 1)
    write(r.wake, &one, sizeof(one))
    return True


cdef bint resolver_answer(Resolver *r, NextHop *out, uint32_t *round_) noexcept nogil:
    cdef Answer *a = &r.answers[r.taken % PLACES]
    if r.taken == hk_load32(&r.answered):
        return False
    out[0] = a.hop
    round_[0] = a.round
    r.taken += 1
    return True
