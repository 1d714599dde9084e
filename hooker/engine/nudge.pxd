from libc.stdint cimport uint16_t, uint32_t
from hooker.includes.hk cimport hk_event

cdef struct nudger:
    int v4
    int v6

cdef int nudger_open(nudger *n) noexcept nogil                     # 0, or -errno
cdef void nudger_close(nudger *n) noexcept nogil
# 0, or -errno; to the application's socket. `given`: bytes (FIN: one more) that the twin has sent to it.
cdef int nudge(nudger *n, const hk_event *est, uint32_t given) noexcept nogil
# To the peer's host: an ACK with the option.
cdef int announce(nudger *n, const hk_event *est, int role, int transport, uint16_t port) noexcept nogil
# To the peer's host: a RST, of a flow that no byte went out of over TCP.
cdef int hang_up(nudger *n, const hk_event *est) noexcept nogil
# To this host, with a mark: as if from the application's socket, and of no effect.
cdef int knock(nudger *n, const hk_event *est, int mark) noexcept nogil
# To this host: a RST that ends what is left of the application's socket.
cdef int forget(nudger *n, const hk_event *est, uint32_t seq, uint32_t ack) noexcept nogil
