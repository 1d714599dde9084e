from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    RESERVE = 8            # free slabs that are kept

cdef struct slab:
    uint8_t *base
    size_t used            # bytes filled so far
    size_t borrowed        # bytes that VTL still may send again
    uint64_t views         # live Python views of it; counted atomically, from any thread
    bint in_free
    slab *next_free

cdef struct slab_pool:
    size_t size            # bytes of one slab
    size_t limit           # slabs
    size_t made            # have memory
    size_t known           # of `all`
    slab **all
    slab *free_list
    size_t free_count
    size_t least_free      # since pool_trim()
    slab *empty_list       # have none
    slab *current

cdef int pool_init(slab_pool *p, size_t slab_size, size_t limit) noexcept nogil     # 0, or -1: no memory
cdef void pool_free(slab_pool *p) noexcept nogil
cdef slab *pool_current(slab_pool *p, size_t room) noexcept nogil                   # NULL: all are borrowed
cdef void pool_release(slab_pool *p, slab *s, size_t n) noexcept nogil
cdef void pool_trim(slab_pool *p) noexcept nogil                                    # gives back what was not needed
cdef bint pool_has_room(slab_pool *p) noexcept nogil                                # a slab is free, or can be made
