# The kernel's BPF ring buffer, and whether who reads it must be woken.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.includes.hk cimport HK_AWAKE, hk_attention
from hooker.includes.linux cimport hk_fence, hk_load64, hk_store32

cdef struct ring_reader:
    uint64_t *consumer
    uint64_t *producer
    uint8_t *data
    uint64_t mask
    size_t page                # bytes of one page of this kernel
    hk_attention *attention    # what the producers see of us

cdef int ring_attach(ring_reader *r, int fd, int size, hk_attention *attention) noexcept nogil    # 0, or -errno
cdef void ring_detach(ring_reader *r) noexcept nogil
cdef const void *ring_next(ring_reader *r) noexcept nogil                # NULL: nothing
cdef void ring_release(ring_reader *r) noexcept nogil


cdef inline bint ring_waiting(const ring_reader *r) noexcept nogil:
    return hk_load64(r.producer) != r.consumer[0]


cdef inline bint ring_may_sleep(ring_reader *r, uint32_t state) noexcept nogil:
    """Say HK_ASLEEP or HK_DOZING; False if an event is there already. bpf/events.h has the other side."""
    hk_store32(&r.attention.state, state)
    hk_fence()
    return not ring_waiting(r)


cdef inline void ring_awake(ring_reader *r) noexcept nogil:
    hk_store32(&r.attention.state, HK_AWAKE)
