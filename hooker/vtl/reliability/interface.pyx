"""The registry of reliability functions: by name for users, by code in the handshake."""

from libc.string cimport memset, strncmp

from typing import NamedTuple

cdef enum:
    PROBES = 2                 # RFC 9002 6.2.4
    ACK_EVERY = 2              # RFC 9000 13.2.2


class Known(NamedTuple):
    """`repairs`: what is lost is sent again; `complete`: nothing is given up; `limits` that it has."""

    code: int
    repairs: bool
    complete: bool
    limits: tuple[str, ...]


cdef const reliability_ops *functions[MAX_FUNCTIONS]
cdef int function_count = 0


cdef const reliability_ops *reliability_find(const char *name) noexcept nogil:
    cdef int i
    if name[0] == 0:
        return reliability_of(0)
    for i in range(function_count):
        if strncmp(functions[i].name, name, sizeof(functions[i].name)) == 0:
            return functions[i]
    return NULL


cdef const reliability_ops *reliability_of(uint8_t code) noexcept nogil:
    cdef int i
    for i in range(function_count):
        if functions[i].code == code:
            return functions[i]
    return NULL


cdef void reliability_end(Reliability *r) noexcept nogil:
    if r.ops != NULL and r.ops.release != NULL:
        r.ops.release(r)


cdef void reliability_use(Reliability *r, const reliability_ops *ops, const Limits *limits) noexcept nogil:
    reliability_end(r)
    memset(r, 0, sizeof(Reliability))
    r.ops = ops
    r.plain = not (ops.once or ops.head > 0 or ops.answer > 0 or ops.may_send != NULL or ops.gives_up != NULL)
    r.limits = limits[0]


cdef int reliability_fill(reliability_ops *ops, bytes name, uint8_t code) except -1:
    """What a function does not say of itself is as with selective repeat."""
    global function_count
    cdef int i
    if not 0 < len(name) < sizeof(ops.name):
        raise ValueError(f"a function's name has 1 to {sizeof(ops.name) - 1} letters, not {len(name)}")
    if reliability_find(name) != NULL or reliability_of(code) != NULL:
        raise ValueError(f"there is a reliability function {name.decode()!r} or with code {code} already")
    if function_count == MAX_FUNCTIONS:
        raise ValueError(f"no room for more than {MAX_FUNCTIONS} reliability functions")
    memset(ops.name, 0, sizeof(ops.name))
    for i in range(len(name)):
        ops.name[i] = name[i]
    ops.code = code
    ops.probes = ops.probes if ops.probes > 0 else PROBES
    ops.ack_every = ops.ack_every if ops.ack_every > 0 else ACK_EVERY
    functions[function_count] = ops
    function_count += 1
    return 0


cdef void reliability_remove(const reliability_ops *ops) noexcept nogil:
    global function_count
    cdef int i, kept = 0
    for i in range(function_count):
        if functions[i] != ops:
            functions[kept] = functions[i]
            kept += 1
    function_count = kept


def names() -> list[str]:
    """The registered functions."""
    return [functions[i].name.decode() for i in range(function_count)]


def known() -> dict[str, Known]:
    """The same, with what users and peers must know of each."""
    return {functions[i].name.decode(): known_of(functions[i]) for i in range(function_count)}


cdef object known_of(const reliability_ops *ops):
    return Known(ops.code, bool(ops.repairs), ops.gives_up == NULL, tuple([
        name for name, bit in
        (("window", LIMIT_WINDOW), ("repeats", LIMIT_REPEATS), ("deadline", LIMIT_DEADLINE))
        if ops.limits & bit
    ]))


def codes() -> dict[str, int]:
    """Their numbers in the handshake."""
    return {functions[i].name.decode(): functions[i].code for i in range(function_count)}
