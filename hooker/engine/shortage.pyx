"""Short of descriptors or memory: until there are some, SYN-ACKs leave new connections to TCP.

A client that has our answer may commit itself, and has no way back. So we say no while some descriptors are left, for
those that are on their way, and look ourselves when there are more again.
"""

from libc.stdint cimport uint64_t
from hooker.includes.hk cimport hk_event
from hooker.includes.linux cimport (
    AF_INET, EMFILE, ENFILE, ENOBUFS, ENOMEM, RLIMIT_NOFILE, SOCK_CLOEXEC, SOCK_STREAM,
    close, errno, getrlimit, hk_store32, rlimit, socket,
)
from hooker.engine.twin cimport twin_create
from hooker.engine.worker cimport worker

cdef enum:
    SPARE = 32                   # descriptors
    LOOK_AGAIN = 100000000       # ns


cdef bint is_short(int fd) noexcept nogil:
    """After an attempt that gave this descriptor, or -errno. The kernel gives the lowest number that is free."""
    cdef rlimit limit
    if fd < 0:
        return -fd == EMFILE or -fd == ENFILE or -fd == ENOMEM or -fd == ENOBUFS
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 and <uint64_t>fd + SPARE >= limit.rlim_cur


cdef void say_short(worker *w) noexcept nogil:
    w.look_again = w.now + LOOK_AGAIN
    hk_store32(&w.ring.attention.no_twins, 1)


cdef int twin_made(worker *w, const hk_event *est) noexcept nogil:
    cdef int fd = twin_create(est)
    if is_short(fd):
        say_short(w)
    return fd


cdef void shortage_timer(worker *w) noexcept nogil:
    cdef int fd
    if w.look_again == 0 or w.look_again > w.now:
        return
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)
    if is_short(fd if fd >= 0 else -errno):
        say_short(w)
    else:
        w.look_again = 0
        hk_store32(&w.ring.attention.no_twins, 0)
    if fd >= 0:
        close(fd)
