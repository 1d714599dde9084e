from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.includes.hk cimport hk_frame

cdef enum:
    FRAME_FIRST = 1            # the part starts its message
    FRAME_LAST = 2             # the part ends its message

cdef packed struct frame_entry:   # a message, or the part of one that one recv() returned
    uint64_t flow_id
    uint64_t offset            # of the payload in the buffer, bytes
    uint32_t length            # bytes
    uint32_t flags

cdef struct frame_parser:
    uint64_t flow_id
    uint32_t left              # payload bytes of the message still to come
    uint32_t have              # header bytes put by from the last buffer
    uint8_t head[16]
    bint fresh                 # nothing of the message was given out yet
    bint broken                # the byte stream lost its framing: nothing after it can be trusted

cdef void frames_init(frame_parser *p) noexcept nogil
# Entries written; `used` says how many bytes they cover (all of n unless the table is full or framing broke).
cdef uint32_t frames_parse(frame_parser *p, const uint8_t *data, size_t n, frame_entry *out, uint32_t room,
                           size_t *used) noexcept nogil
