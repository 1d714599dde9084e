"""Frames of the redirect socket, parsed in place.

Its byte stream is header, payload, header, payload, …; a recv() may end anywhere. Payload is not copied: an
entry says where in the buffer it lies. A message that a buffer's end cuts becomes two entries.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.includes.hk cimport HK_FRAME_MAGIC, hk_frame

cdef enum:
    HEADER = 16
    MAX_MESSAGE = 1 << 24      # bytes; sk_msg makes none near it

cdef object _dtype = None


def frame_dtype():
    """One row a frame: flow id; offset of the payload in the buffer and its length, bytes; 1 starts, 2 ends a message.

    NumPy is loaded by who asks: an engine without a tap does without.
    """
    global _dtype
    if _dtype is None:
        import numpy
        _dtype = numpy.dtype([("flow_id", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("flags", "<u4")])
    return _dtype


cdef void frames_init(frame_parser *p) noexcept nogil:
    memset(p, 0, sizeof(frame_parser))


cdef inline bint take_header(frame_parser *p, const uint8_t *h) noexcept nogil:
    cdef hk_frame f
    memcpy(&f, h, HEADER)
    if f.magic != HK_FRAME_MAGIC or f.length == 0 or f.length > MAX_MESSAGE:
        p.broken = True
        return False
    p.flow_id = f.flow_id
    p.left = f.length
    p.fresh = True
    return True


cdef inline size_t find_header(frame_parser *p, const uint8_t *data, size_t n) noexcept nogil:
    """Bytes of `data` the header took; p.left stays 0 when it is not complete yet, or wrong."""
    cdef size_t need = HEADER - p.have
    if p.have == 0 and n >= HEADER:
        take_header(p, data)
        return HEADER
    if n < need:
        memcpy(p.head + p.have, data, n)
        p.have += n
        return n
    memcpy(p.head + p.have, data, need)
    p.have = 0
    take_header(p, p.head)
    return need


cdef uint32_t frames_parse(frame_parser *p, const uint8_t *data, size_t n, frame_entry *out, uint32_t room,
                           size_t *used) noexcept nogil:
    cdef size_t at = 0, part
    cdef uint32_t count = 0
    while at < n and count < room and not p.broken:
        if p.left == 0:
            at += find_header(p, data + at, n - at)
            continue
        part = p.left if p.left < n - at else n - at
        p.left -= part
        out[count].flow_id = p.flow_id
        out[count].offset = at
        out[count].length = part
        out[count].flags = (FRAME_FIRST if p.fresh else 0) | (FRAME_LAST if p.left == 0 else 0)
        p.fresh = False
        count += 1
        at += part
    used[0] = at
    return count


class FrameError(ValueError):
    """The bytes are not frames: a wrong magic number, or a length no message can have."""


cdef class FrameParser:
    """Parses what a redirect socket gave, for embedders and tests.

    ``parse(buffer)`` returns a NumPy array of ``frame_dtype()`` (one row a frame, offsets into `buffer`).
    State is kept between calls: a message or header cut by the end of one buffer goes on in the next.
    Raises FrameError once framing is lost, and on every call after.
    """

    cdef frame_parser p

    def __cinit__(self):
        frames_init(&self.p)

    def parse(self, const uint8_t[::1] data not None):
        cdef size_t n = data.shape[0], used = 0, total = 0
        cdef uint32_t count
        cdef frame_entry[::1] view
        import numpy as np
        parts = []
        while total < n and not self.p.broken:
            table = np.empty(1024, dtype=frame_dtype())
            view = table
            count = frames_parse(&self.p, &data[total], n - total, &view[0], 1024, &used)
            rows = table[:count]
            rows["offset"] += total
            parts.append(rows)
            total += used
        if self.p.broken:
            raise FrameError("lost framing on the redirect socket: bad magic number or length")
        return np.concatenate(parts) if parts else np.empty(0, dtype=frame_dtype())
