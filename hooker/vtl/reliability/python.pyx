"""Reliability functions written in Python, for trying out: the same calls as those of the compiled ones.

Each call takes the GIL. What one raises is unraisable (``sys.unraisablehook``): whoever registers one says
there what becomes of it.
"""

from numbers import Integral

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from hooker.vtl.reliability.interface cimport (
    Reliability, Rewind, reliability_fill, reliability_find, reliability_ops, reliability_remove,
)
from hooker.vtl.wire cimport (
    FR_GO_BACK, FR_ORDER, GO_BACK_FRAME, ORDER_FRAME, load32, load64, store32, store64, write_prefix,
)

from hooker.checks import shown
from hooker.vtl.reliability.base import ORDERED
from hooker.vtl.reliability.base import Reliability as Base

factories: dict[int, type[Base]] = {}          # by the address of their table of functions

cdef enum:
    FUNCTION = 0               # Reliability.state: the object, or 0


cdef object function_of(const Reliability *r):
    """Made when it is asked for the first time."""
    cdef Reliability *own = <Reliability *>r
    if own.state[FUNCTION] == 0:
        made = factories[<uintptr_t>r.ops]()
        Py_INCREF(made)
        own.state[FUNCTION] = <uintptr_t><PyObject *>made
    return <object><PyObject *><uintptr_t>own.state[FUNCTION]


cdef str wrong(object function, str method, object said, str wanted):
    return f"{type(function).__name__}.{method}() has given {shown(said)}, which is no {wanted}"


cdef uint64_t number(object function, str method, object said, uint64_t most) except? -1:
    """What a method has given. Raises TypeError: it is no whole number from 0 to `most`."""
    if isinstance(said, (int, Integral)) and 0 <= said <= most:
        return said
    raise TypeError(wrong(function, method, said, f"whole number from 0 to {most}"))


cdef tuple numbers(object function, str method, object said, int count):
    """So many packet numbers. Raises TypeError."""
    if isinstance(said, tuple | list) and len(said) == count:
        if all(isinstance(one, (int, Integral)) and 0 <= one <= UINT64_MAX for one in said):
            return tuple(said)
    raise TypeError(wrong(function, method, said, f"tuple of {count} packet numbers"))


cdef void release(Reliability *r) noexcept with gil:
    if r.state[FUNCTION] != 0:
        Py_DECREF(<object><PyObject *><uintptr_t>r.state[FUNCTION])
        r.state[FUNCTION] = 0


cdef bint may_send(const Reliability *r, uint32_t outstanding) noexcept with gil:
    return bool(function_of(r).may_send(outstanding))


cdef bint gives_up(const Reliability *r, uint32_t repeats, uint64_t age) noexcept with gil:
    return bool(function_of(r).gives_up(repeats, age * 1e-9))


cdef void write_head(Reliability *r, uint64_t pn, uint8_t *out) noexcept with gil:
    function = function_of(r)
    out[0] = FR_ORDER
    store32(out + 1, 0)
    store32(out + 1, <uint32_t>number(function, "order", function.order(pn), UINT32_MAX))


cdef uint64_t on_lost(Reliability *r, uint64_t pn) noexcept with gil:
    function = function_of(r)
    cdef uint64_t first = number(function, "on_lost", function.on_lost(pn), UINT64_MAX)
    return first if first <= pn else 0


cdef void rewind(Reliability *r) noexcept with gil:
    function_of(r).rewind()


cdef bint accepts(Reliability *r, const uint8_t *head, uint64_t pn) noexcept with gil:
    if function_of(r).accepts(load32(head + 1), pn):
        return True
    r.answer_due = True
    return False


cdef void accepted(Reliability *r, uint64_t pn) noexcept with gil:
    function_of(r).accepted(pn)


cdef void write_answer(Reliability *r, uint8_t *out) noexcept with gil:
    cdef uint64_t one, two, three
    r.answer_due = False
    write_prefix(out, FR_GO_BACK, 0, 0, 0)
    store64(out + 8, 0)
    store64(out + 16, 0)
    store64(out + 24, 0)
    function = function_of(r)
    one, two, three = numbers(function, "answer", function.answer(), 3)
    store64(out + 8, one)
    store64(out + 16, two)
    store64(out + 24, three)


cdef bint on_answer(Reliability *r, const uint8_t *frame, uint64_t next_pn, Rewind *out) noexcept with gil:
    """What cannot be is not believed, whoever has said it."""
    cdef uint64_t first, arrived
    out.first = out.arrived = 0
    function = function_of(r)
    said = function.on_answer(load64(frame + 8), load64(frame + 16), load64(frame + 24), next_pn)
    if said is None:
        return False
    first, arrived = numbers(function, "on_answer", said, 2)
    if first and not first <= arrived < next_pn:
        return False
    out.first, out.arrived = first, arrived
    return True


def register(str name not None, uint8_t code, function not None):
    """Makes a subclass of ``hooker.Reliability`` known under a name of 1 to 23 ASCII letters, with that code
    in the handshake (128 to 255).

    Raises ValueError: the name or the code is taken, or methods are missing that belong together.
    """
    cdef reliability_ops *ops
    own = {name for name in vars(Base) if getattr(function, name) is not getattr(Base, name)}
    missing = sorted(set(ORDERED) - own) if set(ORDERED) & own else []
    if missing:
        raise ValueError(
            f"{function.__name__} has no method {missing[0]}(), which goes with the others of an order"
        )
    if not 128 <= code:
        raise ValueError(f"code {code} is not from 128 to 255")
    if type(function.ack_every) is not int or not 1 <= function.ack_every <= 255:
        raise ValueError("ack_every is no number from 1 to 255")
    ops = <reliability_ops *>calloc(1, sizeof(reliability_ops))    # stays: associations use it
    if ops == NULL:
        raise MemoryError("reliability function")
    ops.repairs = bool(function.repairs)
    ops.ack_every = function.ack_every
    ops.release = release
    if "may_send" in own:
        ops.may_send = may_send
    if "gives_up" in own:
        ops.gives_up = gives_up
    if "order" in own:
        ops.head, ops.answer = ORDER_FRAME, GO_BACK_FRAME
        ops.write_head, ops.on_lost, ops.rewind = write_head, on_lost, rewind
        ops.accepts, ops.accepted = accepts, accepted
        ops.write_answer, ops.on_answer = write_answer, on_answer
    try:
        reliability_fill(ops, name.encode("ascii"), code)
    except BaseException:
        free(ops)
        raise
    factories[<uintptr_t>ops] = function


def unregister(str name not None):
    """Takes the name back; endpoints that have the function keep it. Raises KeyError."""
    cdef const reliability_ops *ops = reliability_find(name.encode("ascii", "replace"))
    if ops == NULL or <uintptr_t>ops not in factories:
        raise KeyError(f"no reliability function {name!r} made in Python")
    reliability_remove(ops)
