# Associations that come up and go down.
from libc.stdint cimport uint32_t
from hooker.engine.worker cimport peer, worker
from hooker.flow.messages cimport Message
from hooker.vtl.api cimport vtl_assoc

cdef void peer_up(worker *w, vtl_assoc *a) noexcept nogil
cdef void peer_down(worker *w, vtl_assoc *a, uint32_t reason) noexcept nogil
cdef void peer_hello(worker *w, peer *p, const Message *m) noexcept nogil
cdef void greet_again(worker *w) noexcept nogil                # those whose HELLO is missing; sets `greeting` if one is
