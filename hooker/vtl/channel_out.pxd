from hooker.vtl.builder cimport Builder

cdef void add_messages(Builder *d) noexcept nogil      # MESSAGE frames, as many as fit
cdef void add_blocks(Builder *d) noexcept nogil        # BLOCK frames, until the packet is full
