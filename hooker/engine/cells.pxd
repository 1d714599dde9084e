# Room for pieces of segments: a fixed number of cells, and memory only where they are used.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    CELL_BYTES = 1460          # of a cell: what a packet of Ethernet's size takes

cdef struct cell:
    cell *next                 # of the unused ones, or of its owner's
    void *owner                # for whom it is counted; NULL: nobody
    uint32_t position
    uint16_t n
    uint8_t flags
    uint8_t data[1460]         # CELL_BYTES

cdef struct cell_room:
    cell *memory
    cell *unused               # were in use
    uint32_t limit
    uint32_t made              # have been in use since memory was given back
    uint32_t used              # are

cdef int cells_init(cell_room *r, uint32_t limit) noexcept nogil     # 0, or -1: no memory
cdef void cells_free(cell_room *r) noexcept nogil
cdef cell *cell_take(cell_room *r) noexcept nogil                    # NULL: all are in use
cdef void cell_give(cell_room *r, cell *c) noexcept nogil
# If nobody has any, their memory goes back to the system.
cdef void cells_trim(cell_room *r) noexcept nogil
