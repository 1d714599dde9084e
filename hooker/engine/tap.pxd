# Frames shown to Python. Only this takes the GIL in the data path, and only when somebody asked.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.engine.frames cimport frame_entry
from hooker.engine.slab cimport slab

cdef void tap_frames(void *callback, void *owner, slab *s, uint8_t *data, frame_entry *frames,
                     uint32_t count, uint64_t *errors) noexcept nogil   # errors: of the callable, so far
