"""The tap: a Python callable that sees each batch of what applications send, over the engine's own memory.

It gets a NumPy structured array (flow_id, offset, length, flags; one row a frame) and the payload buffer the offsets
point into. The array is the engine's table and is valid during the call only: copy it to keep it. The payload may be
kept: as long as any view of it lives, the engine does not use its slab again.
"""

import sys

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.engine.frames cimport frame_entry
from hooker.engine.slab cimport slab

from hooker.engine.frames import frame_dtype

cdef extern from * nogil:
    """
    static inline void hk_atomic_add(uint64_t *p, int64_t v) { __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
    """
    void hk_atomic_add(uint64_t *p, int v)


cdef class Payload:
    """Read-only bytes of one slab; a buffer. The slab is not used again before the last view of it is gone."""

    cdef object owner          # of the slab's memory
    cdef slab *source
    cdef uint8_t *data
    cdef size_t size

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a payload is read-only: the engine may have to send these bytes again")
        PyBuffer_FillInfo(view, self, self.data, self.size, 1, flags)
        hk_atomic_add(&self.source.views, 1)

    def __releasebuffer__(self, Py_buffer *view):
        hk_atomic_add(&self.source.views, -1)

    def __len__(self):
        return self.size


cdef object _call(object callback, object owner, slab *s, uint8_t *data, frame_entry *frames, uint32_t count):
    cdef Payload payload = Payload.__new__(Payload)
    payload.owner = owner
    payload.source = s
    payload.data = data
    payload.size = frames[count - 1].offset + frames[count - 1].length
    import numpy as np                    # who has a tap has loaded it
    table = np.frombuffer(<uint8_t[:count * sizeof(frame_entry)]><uint8_t *>frames, dtype=frame_dtype())
    view = memoryview(payload)            # taken before anybody else may keep the Payload itself
    return callback(table, view)


cdef void tap_frames(
    void *callback, void *owner, slab *s, uint8_t *data, frame_entry *frames, uint32_t count, uint64_t *errors
) noexcept nogil:
    if count == 0:
        return
    with gil:
        try:
            _call(<object>callback, <object>owner, s, data, frames, count)
        except BaseException:
            errors[0] += 1
            if errors[0] == 1:
                _report()


cdef void _report() noexcept:
    """A tap cannot stop the data: it is told once (a log that nobody reads would stop the worker), and the data goes on."""
    try:
        sys.excepthook(*sys.exc_info())
    except BaseException:
        pass                                  # standard error may be closed
