"""Places of one size, in pages that go back to the system when nobody has a place in them.

A channel of VTL may find no memory (hooker/vtl/pages.pyx). Here, whoever has given a place back must find one
again: room is reserved for all, and only its use costs memory.

The heap would keep them: a place lies between others that are still used. So the lowest unused place is
taken: what is used moves together by itself, and the pages above become empty.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.mman cimport (
    MADV_DONTNEED, MADV_NOHUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise,
    mmap, munmap,
)

cdef enum:
    PAGE = 4096                # bytes
    FEW = 64                   # pages that are worth no system call

cdef extern from * nogil:
    int lowest "__builtin_ctz"(unsigned int x)


cdef inline uint16_t all_of(const place_room *r) noexcept nogil:
    return <uint16_t>((<uint32_t>1 << r.in_page) - 1)


cdef int places_init(place_room *r, uint32_t places, uint32_t place, uint32_t page) noexcept nogil:
    cdef void *m
    cdef uint32_t i
    memset(r, 0, sizeof(place_room))
    r.place = place
    r.in_page = min(PAGE // place, <uint32_t>(8 * sizeof(uint16_t)))
    r.group = max(page // PAGE, <uint32_t>1)    # 4 or 16 on some arm64 and ppc64 kernels
    r.pages = (places + r.in_page - 1) // r.in_page
    r.pages += (r.group - r.pages % r.group) % r.group
    m = mmap(NULL, <size_t>r.pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if m == MAP_FAILED:
        return -1
    madvise(m, <size_t>r.pages * PAGE, MADV_NOHUGEPAGE)     # of one of 2 MiB next to nothing could go back
    r.memory = <uint8_t *>m
    r.unused = <uint16_t *>calloc(r.pages, sizeof(uint16_t))
    r.held = <uint8_t *>calloc(r.pages, 1)
    if r.unused == NULL or r.held == NULL:
        return -1
    for i in range(r.pages):
        r.unused[i] = all_of(r)
    return 0


cdef void places_free(place_room *r) noexcept nogil:
    if r.memory != NULL:
        munmap(r.memory, <size_t>r.pages * PAGE)
    free(r.unused)
    free(r.held)
    memset(r, 0, sizeof(place_room))


cdef void *place_take(place_room *r) noexcept nogil:
    cdef uint8_t *place
    cdef int i
    while r.first < r.pages and r.unused[r.first] == 0:
        r.first += 1
    if r.first == r.pages:
        return NULL
    if r.unused[r.first] == all_of(r) and r.held[r.first]:
        r.empty -= 1
    r.held[r.first] = True
    r.top = max(r.top, r.first + 1)
    i = lowest(r.unused[r.first])
    r.unused[r.first] &= ~<uint16_t>(1 << i)
    place = r.memory + <size_t>r.first * PAGE + i * r.place
    memset(place, 0, r.place)
    return place


cdef void place_give(place_room *r, void *place) noexcept nogil:
    cdef size_t at = <uint8_t *>place - r.memory
    cdef uint32_t page = <uint32_t>(at // PAGE)
    r.unused[page] |= <uint16_t>(1 << at % PAGE // r.place)
    r.first = min(r.first, page)
    r.empty += r.unused[page] == all_of(r)


cdef bint is_empty(const place_room *r, uint32_t page) noexcept nogil:
    """All of the kernel's page that this one begins: it takes back no less, with what else is there."""
    cdef uint32_t i
    cdef bint held = False
    for i in range(page, page + r.group):
        if r.unused[i] != all_of(r):
            return False
        held |= r.held[i]
    return held


cdef bint places_wait(const place_room *r) noexcept nogil:
    return r.empty > FEW


cdef void places_trim(place_room *r) noexcept nogil:
    cdef uint32_t i = 0, start
    if not places_wait(r):
        return
    while i < r.top:
        start = i
        while i < r.top and is_empty(r, i):
            memset(r.held + i, 0, r.group)
            i += r.group
        if i > start:
            madvise(r.memory + <size_t>start * PAGE, <size_t>(i - start) * PAGE, MADV_DONTNEED)
        else:
            i += r.group
    while r.top > 0 and not r.held[r.top - 1]:
        r.top -= 1
    r.empty = 0
    for i in range(r.top):
        if r.held[i] and r.unused[i] == all_of(r):
            r.empty += 1


cdef class Room:
    """A room in Python's hands, for tests. Raises MemoryError."""

    cdef place_room r

    def __cinit__(self, uint32_t places, uint32_t place=256, uint32_t page=PAGE):
        if places_init(&self.r, places, place, page) < 0:
            raise MemoryError

    def __dealloc__(self):
        places_free(&self.r)

    def take(self):
        """The number of a place, whose bytes are zero; None: all are in use."""
        cdef uint8_t *place = <uint8_t *>place_take(&self.r)
        if place == NULL:
            return None
        for i in range(self.r.place):
            assert place[i] == 0
        memset(place, 0xFF, self.r.place)
        i = place - self.r.memory
        return i // PAGE * self.r.in_page + i % PAGE // self.r.place

    def give(self, uint32_t number):
        """A place that was taken, whose bytes nobody has changed."""
        cdef size_t at = <size_t>(number // self.r.in_page) * PAGE + number % self.r.in_page * self.r.place
        cdef uint8_t *place = self.r.memory + at
        for i in range(self.r.place):
            assert place[i] == 0xFF
        place_give(&self.r, place)

    def trim(self):
        """Empty pages go back, if they are many."""
        places_trim(&self.r)

    @property
    def pages(self):
        """How many have memory of the system's."""
        return sum([self.r.held[i] for i in range(self.r.pages)])
