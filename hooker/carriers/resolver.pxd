# Next hops, asked for in a thread of their own: the kernel may let a question wait, and the worker does not.

from libc.stdint cimport uint8_t, uint32_t
from hooker.carriers.next_hop cimport NextHop

cdef struct Resolver           # the worker's and its thread's; that which leaves last frees it

# Runs until it is left; in the thread's network namespace. 0, or -errno.
cdef int resolver_start(Resolver **out) noexcept nogil
cdef void resolver_leave(Resolver *r) noexcept nogil    # waits for nothing
# Of a peer and one of our addresses. False: as many are asked for already as there is room for.
cdef bint resolver_ask(Resolver *r, const uint8_t *ip, const uint8_t *local, uint32_t round_) noexcept nogil
# The next answer, and the round in which it was asked for; False: none is there. In the order of questions.
cdef bint resolver_answer(Resolver *r, NextHop *out, uint32_t *round_) noexcept nogil
