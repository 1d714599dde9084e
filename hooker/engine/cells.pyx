"""Room for pieces of segments, in cells of one size.

Cells lie in a row, and those that were used last are used first, so memory that nobody needed stays the
system's. A moment in which thousands of flows asked costs memory only until all have given back.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from posix.mman cimport (
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)

cdef enum:
    FEW = 64                   # cells that are worth no system call


cdef int cells_init(cell_room *r, uint32_t limit) noexcept nogil:
    cdef void *m = mmap(NULL, limit * sizeof(cell), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    memset(r, 0, sizeof(cell_room))
    if m == MAP_FAILED:
        return -1
    r.memory, r.limit = <cell *>m, limit
    return 0


cdef void cells_free(cell_room *r) noexcept nogil:
    if r.memory != NULL:
        munmap(r.memory, r.limit * sizeof(cell))
    memset(r, 0, sizeof(cell_room))


cdef cell *cell_take(cell_room *r) noexcept nogil:
    cdef cell *c = r.unused
    if c != NULL:
        r.unused = c.next
    elif r.made < r.limit:
        c = &r.memory[r.made]
        r.made += 1
    else:
        return NULL
    r.used += 1
    c.next = NULL
    c.owner = NULL
    return c


cdef void cell_give(cell_room *r, cell *c) noexcept nogil:
    r.used -= 1
    c.next = r.unused
    r.unused = c


cdef void cells_trim(cell_room *r) noexcept nogil:
    if r.used or r.made <= FEW:
        return
    madvise(r.memory, r.limit * sizeof(cell), MADV_DONTNEED)
    r.unused = NULL
    r.made = 0
