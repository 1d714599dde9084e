"""Puts the ids of all slots on the kernel's stack, once, before the first connection."""

from libc.stdint cimport uint32_t, uint64_t
from hooker.includes.bpf cimport BPF_MAP_UPDATE_ELEM, hk_bpf_elem
from hooker.includes.linux cimport errno


def fill_free(int fd, uint32_t count):
    """Of the free ones, `count`, in generation 1. Raises OSError."""
    cdef uint32_t i
    cdef uint64_t id
    for i in range(count):
        id = (<uint64_t>1 << 32) | (count - 1 - i)
        if hk_bpf_elem(BPF_MAP_UPDATE_ELEM, fd, NULL, &id, 0) < 0:
            raise OSError(errno, "cannot fill the stack of free flow slots")
