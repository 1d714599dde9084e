# The numbers in a flow's record, which a kernel program writes while we read.

from libc.stdint cimport uint32_t
from hooker.includes.hk cimport hk_flow
from hooker.includes.linux cimport hk_load32

cdef enum:
    RECORD_LOOKS = 4

cdef struct record_numbers:
    uint32_t marks              # 0: there are none
    uint32_t snd_una, snd_nxt, rcv_nxt, snd_wnd     # sequence numbers; bytes


cdef inline bint record_read(const hk_flow *r, record_numbers *out) noexcept nogil:
    """All of one moment. False: not now, they are being written."""
    cdef int i
    for i in range(RECORD_LOOKS):
        out.marks = hk_load32(&r.marks)
        if out.marks & 1:
            continue
        out.snd_una, out.snd_nxt = hk_load32(&r.snd_una), hk_load32(&r.snd_nxt)
        out.rcv_nxt, out.snd_wnd = hk_load32(&r.rcv_nxt), hk_load32(&r.snd_wnd)
        if hk_load32(&r.marks) == out.marks:
            return True
    return False
