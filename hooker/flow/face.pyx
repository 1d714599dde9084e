"""The machine in Python's hands: for the simulator, the model and prototypes. One object is one flow at one host."""

from libc.stdint cimport UINT64_MAX
from libc.string cimport memcpy
from hooker.flow.machine cimport *
from hooker.flow.messages cimport MESSAGE_FINE, MSG_LEAVE, Message, message_bytes, read_message

from hooker.flow.messages import TYPES, MessageError
from hooker.flow.states import Event, Reason, State

cdef enum:
    SECOND = 1000000000

FLOW_SIZE = sizeof(Flow)
"""Bytes of one flow."""


_LOCAL = (Event.START, Event.UNMARKED, Event.CLOSE, Event.DOWN, Event.PEER_DEAD, Event.STOP, Event.DOUBT)


cdef uint64_t ticks(double seconds):
    return <uint64_t>(seconds * SECOND + 0.5)


cdef class Machine:
    """One flow at one host. Times are seconds of any clock, positions sequence numbers less the initial one.

    Every method that tells of something returns an int: bits of `states.Action`. `promise`: bytes beyond the kernel's
    window; `repairs`: the transport sends again what it loses; `early`: the service is known to be warm.
    """

    cdef Flow f
    cdef FlowConfig c
    cdef Outcome out

    def __init__(self, role, *, uint64_t token=1, bint pinned=False, bint early=False, bint repairs=False,
                 uint32_t snd_una=1, uint32_t rcv_nxt=1, double rtt=0.0, uint32_t promise=0):
        flow_init(&self.f, role, token, snd_una, rcv_nxt, <uint32_t>(rtt * 1000000))
        flow_defaults(&self.c)
        self.c.repairs = repairs
        self.f.promise = promise
        if pinned:
            self.f.flags |= FL_PINNED | FL_EARLY
        if early:
            self.f.flags |= FL_EARLY

    def pin(self) -> None:
        """From now on there is no way back: its bytes are not those of the connection any more."""
        self.f.flags |= FL_PINNED

    def local(self, event, double now) -> int:
        """START, UNMARKED, CLOSE, DOWN, PEER_DEAD, STOP or DOUBT of `states.Event`."""
        if event not in _LOCAL:
            raise ValueError(f"{event!r} has a method of its own or comes from the peer")
        flow_local(&self.f, &self.c, event, ticks(now), &self.out)
        return self.out.actions

    def segment(self, uint32_t position, uint32_t length, uint32_t ack, uint32_t window, double now, *, bint rst=False,
                uint32_t tsval=0) -> int:
        """A segment of the local kernel's out of hk0; `length` counts the payload and 1 for FIN."""
        cdef Segment s
        s.position, s.length, s.ack, s.window, s.tsval, s.rst = position, length, ack, window, tsval, rst
        flow_segment(&self.f, &self.c, &s, ticks(now), &self.out)
        return self.out.actions

    def message(self, bytes data not None, double now, *, bint checked=False) -> int:
        """A message of the peer's, whose token (of OPEN: locator and proof) was found right."""
        cdef Message m
        error = read_message(data, len(data), checked, &m)
        if error != MESSAGE_FINE:
            raise MessageError(f"not a message of the flow protocol ({error})")
        flow_message(&self.f, &self.c, &m, ticks(now), &self.out)
        return self.out.actions

    def timer(self, double now) -> int:
        flow_timer(&self.f, &self.c, ticks(now), &self.out)
        return self.out.actions

    def marked(self, uint32_t snd_una, uint32_t snd_nxt, uint32_t rcv_nxt) -> None:
        """The kernel program has done MARK; the kernel's numbers of that moment."""
        flow_marked(&self.f, snd_una, snd_nxt, rcv_nxt)

    def injected(self, uint32_t end, double now) -> None:
        """What was kept has gone to the kernel, up to `end`."""
        flow_injected(&self.f, end, ticks(now))

    def not_taken(self, uint32_t position) -> None:
        """The transport was full: the next retransmission from there must pass."""
        flow_not_taken(&self.f, position)

    def compose(self, str kind not None, double now, *, int position=-1, int flags=-1, bytes data not None=b"",
                bint checked=False) -> bytes:
        """A message with the values that the flow has now; `position`, `flags` and `data` are for DATA and the like."""
        cdef Message m
        if kind not in TYPES or kind == "hello":
            raise MessageError(f"no message of a flow is called {kind!r}")
        flow_compose(&self.f, TYPES[kind], ticks(now), &m)
        if position >= 0:
            m.position = position
        if flags >= 0:
            m.flags = flags
        if m.type == MSG_LEAVE:
            m.epoch = self.out.epoch
        m.data = data
        m.data_n = <uint32_t>len(data)
        return message_bytes(&m, checked)

    @property
    def deadline(self) -> float | None:
        """When `timer` is due, seconds; None: never."""
        cdef uint64_t at = flow_deadline(&self.f)
        return None if at == UINT64_MAX else <double>at / SECOND

    @property
    def state(self) -> State:
        return State(self.f.state)

    @property
    def reason(self) -> Reason:
        return Reason(self.f.reason)

    @property
    def repairs(self) -> bool:
        return self.c.repairs

    @property
    def numbers(self) -> dict:
        """All that the flow knows, by the names in machine.pxd."""
        return dict(self.f)

    def configure(self, **values) -> None:
        """Sets fields of FlowConfig; times in seconds. Raises KeyError for one that there is not."""
        config = dict(self.c)
        for name, value in values.items():
            if name not in config:
                raise KeyError(f"no such field: {name}; there are {', '.join(config)}")
            config[name] = round(value * SECOND) if isinstance(value, float) else value
        self.c = config

    def freeze(self) -> bytes:
        """The flow's bytes; `thaw` makes it that flow again."""
        return (<const uint8_t *>&self.f)[:sizeof(Flow)]

    def thaw(self, bytes frozen not None) -> None:
        if len(frozen) != sizeof(Flow):
            raise ValueError(f"a flow has {sizeof(Flow)} bytes, this has {len(frozen)}")
        memcpy(&self.f, <const uint8_t *>frozen, sizeof(Flow))


def answer_to_unknown(bytes data not None) -> bytes | None:
    """What is said to a message whose token or locator nobody here has; None: nothing."""
    cdef Message m, answer
    if read_message(data, len(data), False, &m) != MESSAGE_FINE or not unknown_flow(&m, &answer):
        return None
    return message_bytes(&answer, False)
