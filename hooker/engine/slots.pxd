# Slots of flow records: a kernel program takes a flow id (generation << 32 | slot) from a stack, a worker gives it back.

from libc.stdint cimport int32_t, uint32_t, uint64_t
from hooker.includes.bpf cimport BPF_MAP_UPDATE_ELEM, hk_bpf_elem


cdef inline bint slot_is_newer(uint32_t generation, uint32_t than) noexcept nogil:
    """Generations wrap, as serial numbers do (RFC 1982)."""
    return <int32_t>(generation - than) > 0


cdef inline void slot_give_back(int free_fd, uint32_t *given_back, uint32_t slots, uint64_t id) noexcept nogil:
    """The next connection in this slot has another id, so nothing late can be taken for it.

    Once for each id: a flow may be found over by the sweep before the event that says so is read, and the slot may
    have had other flows by then. `given_back` has the generation that each slot was given back with last.
    """
    cdef uint32_t slot = <uint32_t>id
    cdef uint32_t generation = <uint32_t>(id >> 32)
    cdef uint64_t next_id
    if slot >= slots or not slot_is_newer(generation, given_back[slot]):
        return
    given_back[slot] = generation
    next_id = (<uint64_t>(generation + 1 if generation + 1 else 1) << 32) | slot
    hk_bpf_elem(BPF_MAP_UPDATE_ELEM, free_fd, NULL, &next_id, 0)
