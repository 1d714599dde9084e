"""The ring of events for Python.

Thousands of flows that begin or end at once fill it once, and it lies unused for long times: its memory
goes back to the system when Python has taken all.
"""

from posix.mman cimport (
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)
from hooker.engine.worker cimport NOTICES, notice, worker
from hooker.includes.linux cimport hk_load64, hk_store64

cdef enum:
    FEW = 512                  # notices that are worth no system call


cdef int notices_init(worker *w) noexcept nogil:
    cdef void *m = mmap(NULL, NOTICES * sizeof(notice), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    w.notices = <notice *>m if m != MAP_FAILED else NULL
    return 0 if w.notices != NULL else -1


cdef void notices_free(worker *w) noexcept nogil:
    if w.notices != NULL:
        munmap(w.notices, NOTICES * sizeof(notice))
    w.notices = NULL


cdef void notices_trim(worker *w) noexcept nogil:
    """Python stores the tail when it has copied what is in front of it: of an empty ring it reads nothing."""
    if hk_load64(&w.notice_tail) != w.notice_head or w.notice_head - w.notice_trimmed < FEW:
        return
    madvise(w.notices, NOTICES * sizeof(notice), MADV_DONTNEED)
    w.notice_trimmed = w.notice_head


cdef notice *notice_next(worker *w) noexcept nogil:
    if w.notice_head - hk_load64(&w.notice_tail) >= NOTICES:
        w.n.notices_lost += 1
        return NULL
    return &w.notices[w.notice_head & (NOTICES - 1)]


cdef void notice_said(worker *w) noexcept nogil:
    hk_store64(&w.notice_head, w.notice_head + 1)
