"""Consumer of a BPF ring buffer (Documentation/bpf/ringbuf.rst): a shared page of positions, then data mapped twice."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from hooker.includes.linux cimport _SC_PAGESIZE, errno, hk_load32, hk_load64, hk_store64, sysconf
from hooker.includes.hk cimport hk_attention

cdef enum:
    HEADER = 8
    LENGTH_MASK = 0x3FFFFFFF

cdef extern from *:
    """
    #define HK_RING_BUSY 0x80000000u
    #define HK_RING_DISCARD 0x40000000u
    """
    const uint32_t HK_RING_BUSY
    const uint32_t HK_RING_DISCARD


cdef int ring_attach(ring_reader *r, int fd, int size, hk_attention *attention) noexcept nogil:
    cdef size_t page = sysconf(_SC_PAGESIZE)       # 16 or 64 KiB on some arm64 and ppc64 kernels
    cdef void *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if m == MAP_FAILED:
        return -errno
    r.consumer = <uint64_t *>m
    m = mmap(NULL, page + 2 * <size_t>size, PROT_READ, MAP_SHARED, fd, page)
    if m == MAP_FAILED:
        munmap(r.consumer, page)
        r.consumer = NULL
        return -errno
    r.producer = <uint64_t *>m
    r.data = <uint8_t *>m + page
    r.page = page
    r.mask = size - 1
    r.attention = attention
    return 0


cdef void ring_detach(ring_reader *r) noexcept nogil:
    if r.consumer != NULL:
        munmap(r.producer, r.page + 2 * (r.mask + 1))
        munmap(r.consumer, r.page)
        r.consumer = NULL


cdef inline uint64_t padded(uint32_t head) noexcept nogil:
    return ((head & LENGTH_MASK) + HEADER + 7) & ~<uint64_t>7


cdef const void *ring_next(ring_reader *r) noexcept nogil:
    cdef uint64_t at = r.consumer[0]
    cdef const uint32_t *head
    cdef uint32_t h
    while at < hk_load64(r.producer):
        head = <const uint32_t *>(r.data + (at & r.mask))
        h = hk_load32(head)
        if h & HK_RING_BUSY:
            return NULL
        if not h & HK_RING_DISCARD:
            return <const uint8_t *>head + HEADER
        at += padded(h)
        hk_store64(r.consumer, at)
    return NULL


cdef void ring_release(ring_reader *r) noexcept nogil:
    cdef uint64_t at = r.consumer[0]
    hk_store64(r.consumer, at + padded(hk_load32(<const uint32_t *>(r.data + (at & r.mask)))))
