# Associations that come up and go down.
from hooker.engine.worker cimport peer, worker
from hooker.flow.messages cimport Message
from hooker.transports.contract cimport Association, Transport, down_reason

cdef void peer_up(worker *w, Association *a) noexcept nogil
cdef void peer_down(worker *w, Association *a, down_reason reason) noexcept nogil
cdef void tell_transport(worker *w, const Transport *t) noexcept nogil          # it has failed
cdef void peer_hello(worker *w, peer *p, const Message *m) noexcept nogil
cdef void greet_again(worker *w) noexcept nogil                # those whose HELLO is missing; sets `greeting` if one is
