"""The machine, the sender and what feeds it in Python's hands: for the simulator, the model and prototypes.

One object is of one flow.
"""

from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport free
from libc.string cimport memcpy
from hooker.flow.joined cimport (
    GOT_NOT, J_FIN_TAKEN, J_LOST, J_OVER, Part, Turns, joined_ack, joined_acked, joined_below, joined_consumed,
    joined_credit, joined_end, joined_fin, joined_follows, joined_frame, joined_got, joined_init, joined_lives,
    joined_meet, joined_missed, joined_queued, joined_settle, joined_take,
)
from hooker.flow.joined cimport Joined as JoinedState
from hooker.flow.machine cimport *
from hooker.flow.messages cimport DATA_OPENERS, MAX_BLOCKS, MESSAGE_FINE, MSG_LEAVE, Message, message_bytes, read_message
from hooker.flow.sender cimport Piece, SenderPool, sender_acked, sender_acknowledged, sender_credit, sender_deadline
from hooker.flow.sender cimport Sender as SenderState
from hooker.flow.sender cimport sender_defaults, sender_done, sender_fin, sender_free, sender_init, sender_next
from hooker.flow.sender cimport sender_position, sender_refused, sender_sent, sender_timer, sender_write

from hooker.flow.messages import TYPES, MessageError
from hooker.flow.states import Event, Reason, State

cdef enum:
    SECOND = 1000000000

FLOW_SIZE = sizeof(Flow)
"""Bytes of one flow."""


_LOCAL = (Event.START, Event.START_EARLY, Event.UNMARKED, Event.CLOSE, Event.DOWN, Event.PEER_DEAD, Event.STOP, Event.DOUBT)


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
        """START, START_EARLY, UNMARKED, CLOSE, DOWN, PEER_DEAD, STOP or DOUBT of `states.Event`."""
        if event not in _LOCAL:
            raise ValueError(f"{event!r} has a method of its own or comes from the peer")
        flow_local(&self.f, &self.c, event, ticks(now), &self.out)
        return self.out.actions

    def segment(self, uint32_t position, uint32_t length, uint32_t ack, uint32_t window, double now, *, bint rst=False,
                uint32_t tsval=0, bint holes=False, bint arrived=False) -> int:
        """A segment of the local kernel's out of hk0; `length` counts the payload and 1 for FIN; `holes`: SACK tells
        of some; `arrived`: the transport has none of the flow's bytes under way."""
        cdef Segment s
        s.position, s.length, s.ack, s.window, s.tsval, s.rst = position, length, ack, window, tsval, rst
        s.holes, s.arrived = holes, arrived
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
            m.flags = flags | (m.flags & DATA_OPENERS)
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


cdef void give_back(void *ctx, void *owner, size_t n) noexcept with gil:
    (<Sender>ctx).lent[<size_t>owner][1] -= n
    if (<Sender>ctx).lent[<size_t>owner][1] == 0:
        del (<Sender>ctx).lent[<size_t>owner]


cdef class Sender:
    """The bytes of one flow whose sender is the engine. Times are seconds of any clock, positions sequence numbers.

    `position` is that of the first byte, `edge` the end of the peer's window, `rtt` the transport's; `config` sets fields of SenderConfig, times in
    seconds as floats. Raises KeyError for a field that there is not.
    """

    cdef SenderState own
    cdef SenderState *s
    cdef SenderPool m
    cdef dict lent              # by number: [the bytes, how many are borrowed]
    cdef size_t writes

    def __cinit__(self):
        self.lent = {}
        self.s = &self.own

    def __init__(self, uint32_t position, uint32_t edge, *, double rtt=0.0, **config):
        self.configure(config)
        sender_init(self.s, &self.m.c, position, edge, ticks(rtt))

    cdef int configure(self, dict config) except -1:
        sender_defaults(&self.m.c)
        fields = dict(self.m.c)
        for name, value in config.items():
            if name not in fields:
                raise KeyError(f"no such field: {name}; there are {', '.join(fields)}")
            fields[name] = round(value * SECOND) if isinstance(value, float) else value
        self.m.c = fields
        self.m.release, self.m.ctx = give_back, <void *>self
        return 0

    cdef void *lend(self, bytes data):
        """To be owned; returned() if it is not."""
        self.writes += 1
        self.lent[self.writes] = [data, len(data)]
        return <void *>self.writes

    cdef void returned(self, void *owner):
        del self.lent[<size_t>owner]

    def __dealloc__(self):
        if self.lent is not None:
            sender_free(self.s, &self.m)

    def write(self, *pieces) -> None:
        """Bytes objects, each borrowed until its bytes are acknowledged. Raises BufferError when one is not taken."""
        cdef bytes data
        cdef void *owner
        for data in pieces:
            owner = self.lend(data)
            if sender_write(self.s, &self.m, data, len(data), owner) < 0 or not data:
                self.returned(owner)
                if data:
                    raise BufferError("not taken: there is a FIN, or too much is queued")

    def fin(self) -> None:
        """The last byte is written."""
        sender_fin(self.s)

    def next(self, double now, *, bint taken=True):
        """One DATA that may go now, as (position, bytes, flags, whether it is sent again), or None. It counts as sent if `taken`."""
        cdef Piece p
        if not sender_next(self.s, &self.m.c, ticks(now), &p):
            return None
        if taken:
            sender_sent(self.s, &self.m.c, &p, ticks(now))
        return p.position, p.data[:p.n] if p.n else b"", p.flags, bool(p.again)

    def acked(self, uint32_t position, uint32_t edge, double now, *, int duplicates=0, sack=()) -> int:
        """The peer's kernel has acknowledged. 0: not believed, 1: no more bytes than before, 2: more. `sack`: pairs."""
        cdef uint32_t blocks[2 * MAX_BLOCKS]
        cdef uint32_t n = 0
        for left, right in sack[:MAX_BLOCKS]:
            blocks[2 * n], blocks[2 * n + 1] = left, right
            n += 1
        return sender_acked(self.s, &self.m, position, edge, duplicates, blocks, n, ticks(now))

    def refused(self, uint32_t position, double now) -> None:
        """The peer's engine has kept nothing from there."""
        sender_refused(self.s, position, ticks(now))

    def timer(self, double now) -> str:
        """What is due: "nothing", "bytes" (see `next`), "probe" or "end"."""
        return ("nothing", "bytes", "probe", "end")[<int>sender_timer(self.s, &self.m.c, ticks(now))]

    @property
    def deadline(self) -> float | None:
        """When `timer` is due, seconds; None: never."""
        return None if sender_deadline(self.s) == UINT64_MAX else <double>sender_deadline(self.s) / SECOND

    @property
    def credit(self) -> int:
        """Bytes that may be written beyond those acknowledged."""
        return sender_credit(self.s, &self.m)

    @property
    def acknowledged(self) -> int:
        """Bytes."""
        return sender_acknowledged(self.s)

    @property
    def borrowed(self) -> int:
        """Bytes that the sender has not given back."""
        return sum(n for data, n in self.lent.values())

    @property
    def held(self) -> int:
        """Of the budget: bytes, and what their records take."""
        return self.m.held

    @property
    def snd_nxt(self) -> int:
        """Behind the last byte sent, and FIN."""
        return sender_position(self.s)

    @property
    def done(self) -> bool:
        """All is acknowledged, FIN too."""
        return sender_done(self.s)

    @property
    def numbers(self) -> dict:
        """What the sender knows, by the names in sender.pxd; times in nanoseconds."""
        return {"rto": self.s.rto, "srtt": self.s.srtt, "rttvar": self.s.rttvar, "tries": self.s.tries,
                "backoff": self.s.backoff, "bits": self.s.bits, "most_in_round": self.s.most_in_round}


cdef class Joined(Sender):
    """One flow's bytes out of two sources: `frame` is given what was redirected, `segment` what the local TCP
    has, whose positions begin where those towards the peer do. `turns` is what the kernel program says:
    (spill_at, whether it redirects now, redirected), bytes. Arguments as of Sender.
    """

    cdef JoinedState j

    def __cinit__(self):
        self.s = &self.j.s

    def __init__(self, uint32_t position, uint32_t edge, *, double rtt=0.0, **config):
        self.configure(config)
        joined_init(&self.j, &self.m, position, edge, ticks(rtt))

    def __dealloc__(self):
        if self.lent is not None:
            joined_end(&self.j, &self.m)

    def write(self, *pieces):
        raise TypeError("what is written comes by `frame` or `segment`")

    fin = None

    def frame(self, bytes data not None, *, bint memory=True) -> bool:
        """The next message, or part of one. Whether it was taken; if not, the flow is over or lost."""
        cdef void *owner
        if not memory:
            joined_missed(&self.j, len(data))
            return False
        owner = self.lend(data)
        if not joined_frame(&self.j, &self.m, data, len(data), owner):
            self.returned(owner)
            return False
        return True

    def segment(self, uint32_t at, bytes data not None, tuple turns not None, *, bint fin=False, bint memory=True) -> str:
        """Of its bytes that are new: "none", "not" (they come again, or the flow is lost), "kept" or "all"."""
        cdef joined_got got = GOT_NOT
        cdef uint32_t n = <uint32_t>len(data), skip
        cdef Turns t = turns_of(turns)
        cdef void *owner
        if not joined_follows(&self.j, at):
            return "none"
        skip = self.j.heard - at
        if skip < n and memory:
            data = data[skip:]
            owner = self.lend(data)
            got = joined_take(&self.j, &self.m, &t, data, len(data), owner)
            if got == GOT_NOT:
                self.returned(owner)
        if fin:
            joined_fin(&self.j, at + n)
        return ("not", "kept", "all")[<int>got] if skip < n else "none"

    def settle(self, tuple turns not None) -> None:
        """What was kept is met, and FIN, as far as they have their turn."""
        cdef Turns t = turns_of(turns)
        cdef Part *p = joined_meet(&self.j, &self.m, &t)
        while p != NULL:
            free(p)
            p = joined_meet(&self.j, &self.m, &t)
        joined_settle(&self.j, &t)

    def acked(self, uint32_t position, uint32_t edge, double now, *, int serial=0, int duplicates=0, sack=()) -> int:
        """As of Sender, if the serial is newer than the last one; SACK and duplicates are not heard."""
        return joined_acked(&self.j, &self.m, position, edge, serial, ticks(now))

    def end(self) -> None:
        """It was reset, or has nobody to speak to: all bytes are given back."""
        joined_end(&self.j, &self.m)

    def ack(self, uint32_t una) -> int:
        """What the local TCP may be told is acknowledged, if the peer has acknowledged up to `una`."""
        return joined_ack(&self.j, una)

    def below(self, uint32_t at, uint32_t n, uint32_t una) -> int:
        """Bytes at the beginning of a segment that stay the local TCP's."""
        return joined_below(&self.j, at, n, una)

    @property
    def credit(self) -> int:
        """Bytes that may be redirected beyond those consumed."""
        return joined_credit(&self.j, &self.m, True)

    @property
    def lives(self) -> bool:
        """There is something to be sent, or acknowledged."""
        return joined_lives(&self.j)

    @property
    def lost(self) -> bool:
        """It has to end with an error: bytes are missing."""
        return self.j.bits & J_LOST

    @property
    def numbers(self) -> dict:
        """As of Sender, and those of joined.pxd."""
        return Sender.numbers.__get__(self) | {
            "received": self.j.received, "consumed": joined_consumed(&self.j), "queued": joined_queued(&self.j),
            "taken": self.j.taken, "heard": self.j.heard, "parts": self.j.parts,
            "fin_taken": bool(self.j.bits & J_FIN_TAKEN), "over": bool(self.j.bits & J_OVER),
        }


cdef Turns turns_of(tuple turns):
    cdef Turns t
    t.spill_at, t.redirects, t.redirected = turns
    return t


def answer_to_unknown(bytes data not None) -> bytes | None:
    """What is said to a message whose token or locator nobody here has; None: nothing."""
    cdef Message m, answer
    if read_message(data, len(data), False, &m) != MESSAGE_FINE or not unknown_flow(&m, &answer):
        return None
    return message_bytes(&answer, False)
