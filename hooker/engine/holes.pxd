# What a peer has given up on the way, as a transport reports it.
from hooker.engine.worker cimport worker
from hooker.flow.messages cimport Message
from hooker.transports.contract cimport Association

cdef void on_hole(worker *w, Association *a, const Message *m) noexcept nogil
