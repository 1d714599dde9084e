# Objects of one size, many in a page, and a page without one goes back to the system.

from libc.stdint cimport uint32_t

cdef enum:
    PAGE = 1 << 16             # bytes, and its alignment: an object's page is found by its address

cdef struct page
cdef struct cell               # an object that is not in use

cdef struct pages:             # zeroed memory with a size is an empty one
    size_t size                # bytes of an object, a multiple of 8
    uint32_t n                 # of pages
    page *roomy                # those in which is room; one without objects is the only one

cdef struct page:
    pages *owner
    page *prev                 # of the roomy ones
    page *next
    cell *unused               # were in use
    uint32_t used              # objects in use
    uint32_t fresh             # bytes from the beginning that have ever been used, with this header

cdef struct cell:
    cell *next

cdef void *pages_take(pages *p) noexcept nogil         # zeroed; NULL: no memory
cdef void pages_give(void *object) noexcept nogil
cdef void pages_free(pages *p) noexcept nogil         # all objects have been given back
