from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.core cimport Assoc, Stream, StreamList
from hooker.vtl.recovery cimport SentFrame


cdef enum:
    QUANTUM = 16               # STREAM frames a stream sends before the next one has its turn

cdef inline Stream *stream_find(const Assoc *a, uint32_t id) noexcept nogil:
    cdef Stream *s
    if a.table_cap == 0:
        return NULL
    s = a.table[id & (a.table_cap - 1)]
    while s != NULL and s.id != id:
        s = s.bucket
    return s

cdef Stream *stream_new(Assoc *a, uint32_t id) noexcept nogil          # NULL: limit or memory
cdef void stream_destroy(Stream *s) noexcept nogil
cdef void stream_unqueue(Stream *s) noexcept nogil                     # out of every list but the table's
cdef void stream_control(Stream *s, uint32_t what) noexcept nogil      # a control frame is due
cdef void active_add(StreamList *l, Stream *s) noexcept nogil          # Assoc.active or .blocked
cdef void stream_activate(Stream *s) noexcept nogil                    # it may have data to send
cdef bint stream_sendable(Stream *s) noexcept nogil
# RESET, CANCEL or REJECT of ours
cdef void stream_end(Stream *s, uint32_t what, uint32_t code) noexcept nogil
# to Assoc.finished if done in both directions
cdef void stream_finish(Stream *s) noexcept nogil

# What the peer's frames do; the result is a vtl_drop code.
cdef int stream_on_data(Stream *s, uint64_t offset, const uint8_t *data, uint32_t n, bint fin) noexcept nogil
cdef int stream_on_reset(Stream *s, uint32_t code, uint64_t final_size, bint cancel) noexcept nogil
cdef void stream_on_open(Stream *s, uint64_t locator, uint64_t proof, bint committed) noexcept nogil
cdef void stream_on_open_ack(Stream *s, uint64_t proof) noexcept nogil
cdef void stream_on_reject(Stream *s, uint32_t code) noexcept nogil
cdef void stream_on_confirm(Stream *s) noexcept nogil

cdef void stream_accept(Stream *s) noexcept nogil
cdef void stream_consumed(Stream *s, uint64_t n) noexcept nogil
cdef void assoc_consumed(Assoc *a, uint64_t n) noexcept nogil
cdef void stream_frame_acked(Stream *s, const SentFrame *f) noexcept nogil
cdef void stream_frame_lost(Stream *s, const SentFrame *f) noexcept nogil
cdef void stream_flush_acked(Assoc *a) noexcept nogil                  # acked() and release() after an ACK
