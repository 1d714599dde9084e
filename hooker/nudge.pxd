from hooker.includes.hk cimport hk_event

cdef struct nudger:
    int v4
    int v6

cdef int nudger_open(nudger *n) noexcept nogil                     # 0, or -errno
cdef void nudger_close(nudger *n) noexcept nogil
# An ACK of old data: TCP answers with an ACK of its own, which carries our option to the peer.
cdef int nudge_acknowledge(nudger *n, const hk_event *est) noexcept nogil
cdef int nudge(nudger *n, const hk_event *est) noexcept nogil      # 0, or -errno
