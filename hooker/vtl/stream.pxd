from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.core cimport Assoc, Stream, StreamList
from hooker.vtl.recovery cimport SentFrame


cdef enum:
    QUANTUM = 16               # STREAM frames a stream sends before the next one has its turn

cdef inline Stream **stream_place(const Assoc *a, uint32_t id) noexcept nogil:
    """Its bucket. Multiplied with a secret: the peer chooses the ids, and must not choose the bucket."""
    return &a.table[(<uint64_t>id * a.ep.scatter >> 40) & (a.table_cap - 1)]

cdef inline Stream *stream_find(const Assoc *a, uint32_t id) noexcept nogil:
    cdef Stream *s
    if a.table_cap == 0:
        return NULL
    s = stream_place(a, id)[0]
    while s != NULL and s.id != id:
        s = s.bucket
    return s

cdef inline void stream_link(Stream *s) noexcept nogil:                # into the table
    cdef Stream **place = stream_place(s.assoc, s.id)
    s.bucket = place[0]
    place[0] = s

cdef inline void active_add(StreamList *l, Stream *s) noexcept nogil:  # Assoc.active or .blocked
    s.next_active = NULL
    s.prev_active = l.last
    if l.last == NULL:
        l.first = s
    else:
        l.last.next_active = s
    l.last = s
    s.in_active = True

cdef inline void active_remove(StreamList *l, Stream *s) noexcept nogil:
    if s.prev_active != NULL:
        s.prev_active.next_active = s.next_active
    else:
        l.first = s.next_active
    if s.next_active != NULL:
        s.next_active.prev_active = s.prev_active
    else:
        l.last = s.prev_active
    s.next_active = s.prev_active = NULL
    s.in_active = s.in_blocked = False

cdef inline void ctrl_add(StreamList *l, Stream *s) noexcept nogil:    # Assoc.ctrl
    s.next_ctrl = NULL
    s.prev_ctrl = l.last
    if l.last == NULL:
        l.first = s
    else:
        l.last.next_ctrl = s
    l.last = s
    s.in_ctrl = True

cdef inline void ctrl_remove(StreamList *l, Stream *s) noexcept nogil:
    if s.prev_ctrl != NULL:
        s.prev_ctrl.next_ctrl = s.next_ctrl
    else:
        l.first = s.next_ctrl
    if s.next_ctrl != NULL:
        s.next_ctrl.prev_ctrl = s.prev_ctrl
    else:
        l.last = s.prev_ctrl
    s.next_ctrl = s.prev_ctrl = NULL
    s.in_ctrl = False

cdef Stream *stream_new(Assoc *a, uint32_t id) noexcept nogil          # NULL: limit or memory
cdef void stream_destroy(Stream *s) noexcept nogil
cdef void stream_unqueue(Stream *s) noexcept nogil                     # out of every list but the table's
cdef void stream_control(Stream *s, uint32_t what) noexcept nogil      # a control frame is due
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
