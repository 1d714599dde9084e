"""Congestion controllers written in Python, for trying out: the same calls as those of the compiled ones.

Each call takes the GIL. What a controller raises is reported as unraisable, the first of each association, and its
window stays as it was.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc
from hooker.vtl.controllers.interface cimport (
    MIN_PACKETS, Congestion, CongestionAck, CongestionLoss, congestion_fill, congestion_find, congestion_ops,
    congestion_unregister,
)

from hooker.checks import shown

factories: dict[int, Callable[[int], Any]] = {}    # by the address of their table of functions


class Ack(NamedTuple):
    """One ACK that acknowledged something new. Times in ns, sizes in bytes, rates in bytes/s."""

    now: int
    bytes: int                 # newly acknowledged
    lost: int                  # found lost since the ACK before
    marked: int                # packets newly reported as marked CE
    sent_at: int               # of the newest packet acknowledged
    srtt: int
    latest_rtt: int
    min_rtt: int
    in_flight: int             # after this ACK
    delivered: int             # since the association began
    rate: int                  # delivery rate sample of the newest packet; 0: none
    sampled: int               # delivered since that packet left
    prior_delivered: int       # ``delivered`` when it left
    tx_in_flight: int          # in flight when it left, it included
    lost_since: int            # lost since it left
    rtt_sample: bool           # ``latest_rtt`` is new
    app_limited: bool          # there was nothing more to send when it left
    round_start: bool          # the first ACK of a round trip
    limited: bool              # the window was not in use


class Loss(NamedTuple):
    """One packet found lost."""

    now: int
    bytes: int
    sent_at: int
    tx_in_flight: int
    lost_since: int
    app_limited: bool


cdef enum:                     # words of Congestion.model
    CONTROLLER = 0             # the object, or 0
    REPORTED = 1               # it has raised something


cdef void call(Congestion *c, str method, tuple arguments) except *:
    """The controller's method, if it has it; then what it decided."""
    if c.model[CONTROLLER] == 0:
        return
    try:
        ask(c, method, arguments)
    except BaseException:
        if c.model[REPORTED]:  # one for each ACK would fill the log, or stop at a pipe that nobody reads
            return
        c.model[REPORTED] = True
        raise


cdef void ask(Congestion *c, str method, tuple arguments) except *:
    controller = <object><PyObject *><uintptr_t>c.model[CONTROLLER]
    function = getattr(controller, method, None)
    if function is not None:
        function(*arguments)
    c.w.cwnd = max(amount(controller, "cwnd", controller.cwnd), MIN_PACKETS * c.mss)
    c.pacing_rate = amount(controller, "pacing_rate", getattr(controller, "pacing_rate", 0))


cdef uint64_t amount(object controller, str name, object value) except? -1:
    """An attribute. Raises TypeError: it is no number of bytes."""
    if isinstance(value, (int, float, Real)) and 0 <= value < UINT64_MAX:
        return int(value)
    raise TypeError(f"{type(controller).__name__}.{name} is {shown(value)}, which is no number of bytes")


cdef void make(Congestion *c) except *:
    controller = factories[<uintptr_t>c.ops](c.mss)
    Py_INCREF(controller)
    c.model[CONTROLLER] = <uintptr_t><PyObject *>controller
    call(c, "", ())


cdef void on_init(Congestion *c) noexcept with gil:
    c.model[CONTROLLER] = 0
    make(c)


cdef void on_release(Congestion *c) noexcept with gil:
    if c.model[CONTROLLER] != 0:
        Py_DECREF(<object><PyObject *><uintptr_t>c.model[CONTROLLER])
        c.model[CONTROLLER] = 0


cdef void on_ack(Congestion *c, const CongestionAck *a) noexcept with gil:
    call(c, "on_ack", (Ack(
        a.now, a.bytes, a.lost, a.marked, a.sent_at, a.srtt, a.latest_rtt, a.min_rtt, a.in_flight, a.delivered,
        a.rate, a.sampled, a.prior_delivered, a.tx_in_flight, a.lost_since, bool(a.rtt_sample),
        bool(a.app_limited), bool(a.round_start), bool(a.limited)),))


cdef void on_packet_lost(Congestion *c, const CongestionLoss *l) noexcept with gil:
    call(c, "on_packet_lost", (
        Loss(l.now, l.bytes, l.sent_at, l.tx_in_flight, l.lost_since, bool(l.app_limited)),))


cdef void on_loss(Congestion *c, uint64_t now) noexcept with gil:
    call(c, "on_loss", (now,))


cdef void on_persistent(Congestion *c) noexcept with gil:
    call(c, "on_persistent", ())


cdef void on_restart(Congestion *c, uint64_t now) noexcept with gil:
    call(c, "on_restart", (now,))


cdef void on_spurious(Congestion *c, uint32_t packets) noexcept with gil:
    call(c, "on_spurious", (packets,))


cdef void on_resize(Congestion *c, uint64_t before) noexcept with gil:
    call(c, "on_resize", (c.mss,))


def register(str name not None, factory):
    """Makes a controller known under a name of 1 to 15 ASCII letters.

    ``factory(mss)`` is called for each association, with the bytes of a full datagram, and returns an object
    with an attribute ``cwnd`` (bytes) and, if it likes, ``pacing_rate`` (bytes/s; 0: derived from ``cwnd``) and
    any of these methods; both attributes are read after each::

        on_ack(ack: Ack)               # each ACK that acknowledged something new
        on_loss(now: int)              # once per congestion event (RFC 9002 7.3.2)
        on_packet_lost(loss: Loss)     # each packet
        on_spurious(packets: int)      # so many were not lost, only late
        on_persistent()                # persistent congestion (RFC 9002 7.6)
        on_restart(now: int)           # something is sent when nothing was in flight
        on_resize(mss: int)            # a full datagram has another size from now on

    Raises ValueError: the name is taken, too long or no ASCII, or the table is full.
    """
    cdef congestion_ops *ops = <congestion_ops *>calloc(1, sizeof(congestion_ops))    # stays: associations use it
    if ops == NULL:
        raise MemoryError("congestion controller")
    ops.model = True
    ops.init = on_init
    ops.on_ack = on_ack
    ops.on_loss = on_loss
    ops.on_persistent = on_persistent
    ops.on_packet_lost = on_packet_lost
    ops.on_restart = on_restart
    ops.on_spurious = on_spurious
    ops.on_resize = on_resize
    ops.release = on_release
    congestion_fill(ops, name.encode("ascii"))
    factories[<uintptr_t>ops] = factory


def unregister(str name not None):
    """Takes the name back; endpoints that have the controller keep it. Raises KeyError."""
    cdef const congestion_ops *ops = congestion_find(name.encode("ascii", "replace"))
    if ops == NULL or <uintptr_t>ops not in factories:
        raise KeyError(f"no congestion controller {name!r} made in Python")
    congestion_unregister(ops)
