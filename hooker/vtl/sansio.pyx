"""The Python face of VTL: one endpoint, no socket, no clock.

Datagrams and the time (integer nanoseconds) go in by :meth:`Endpoint.receive_datagram` and
:meth:`Endpoint.handle_timer`; datagrams come out of :meth:`Endpoint.datagrams_to_send`, the next
deadline out of :meth:`Endpoint.get_timer` and what happened out of :meth:`Endpoint.next_event`.
With equal seeds and equal input the output is equal, bit for bit.
"""

import ipaddress
import random
from collections import deque

from cython cimport no_gc_clear
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.vtl.api cimport *
from hooker.vtl.core cimport Assoc, Source, Stream
from hooker.vtl.core cimport Endpoint as CoreEndpoint
from hooker.vtl.endpoint cimport *

from hooker import checks
from hooker.vtl import congestion, events
from hooker.vtl import reliability as functions

cdef enum:
    DGRAMS = 128               # of one batch
    IOVS = 1024
    SCRATCH = 256 << 10

DROP_REASONS = (
    "ok", "short", "version", "type", "no_assoc", "cookie", "duplicate", "protocol", "memory", "auth", "order",
)

DEFAULTS = {
    "versions": (1,),
    "max_datagram": 1472,
    "first_datagram": 0,
    "stream_window": 1 << 20,
    "assoc_window": 8 << 20,
    "stream_window_max": 0,
    "assoc_window_max": 0,
    "window_budget": 0,
    "budget": 0,
    "channel_queue": 0,
    "max_ack_delay": 5_000_000,
    "keepalive": 10_000_000_000,
    "dead_after": 5_000_000_000,
    "idle_after": 60_000_000_000,
    "handshake_timeout": 10_000_000_000,
    "congestion": "auto",
    "reliability": "selective-repeat",
    "accepts": (),
    "window": 0,
    "repeats": 255,
    "deadline": 0,
    "keys": (),
    "key_update_after": 0,
    "fec": True,
}
RANGES = {                     # of the numbers among them
    "max_datagram": (256, 65535),
    "first_datagram": (0, 65535),
    **dict.fromkeys(("stream_window", "assoc_window"), (1, 1 << 40)),
    **dict.fromkeys(("stream_window_max", "assoc_window_max", "window_budget", "budget", "channel_queue"), (0, 1 << 40)),
    "max_ack_delay": (0, 1_000_000_000),
    **dict.fromkeys(("keepalive", "dead_after", "idle_after", "handshake_timeout"), (0, 1 << 60)),
    "key_update_after": (0, 1 << 60),
    "window": (0, 1 << 16),
    "repeats": (0, 255),
    "deadline": (0, 1 << 40),
}
# with keys; not by what the processor does best, for equal seeds shall give equal bytes
ENCRYPTED_VERSIONS = (0x101, 0x103, 0x102)
NO_KEY = bytes(16)             # of flows whose ends need no proof


cdef int pack_ip(object address, uint8_t *out) except -1:
    cdef bytes packed
    ip = ipaddress.ip_address(address)
    if getattr(ip, "scope_id", None) is not None:
        raise ValueError(f"address {address!r} names an interface, which an endpoint knows nothing of")
    packed = ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
    memcpy(out, PyBytes_AS_STRING(packed), 16)
    return 0


cdef vtl_addr pack_addr(object addr) except *:
    cdef vtl_addr a
    memset(&a, 0, sizeof(a))
    pack_ip(addr[0], a.ip)
    a.port = addr[1]
    return a


cdef object unpack_addr(const vtl_addr *a):
    ip = ipaddress.IPv6Address((<const char *>a.ip)[:16])
    return str(ip.ipv4_mapped or ip), a.port


cdef int fill_key(uint8_t *out, bytes key) except -1:
    if len(key) != 16:
        raise ValueError(f"the key of a flow has 16 bytes, not {len(key)}")
    memcpy(out, PyBytes_AS_STRING(key), 16)
    return 0


cdef inline uintptr_t flow_of(vtl_stream *s) noexcept nogil:
    return <uintptr_t>vtl_stream_user(s)


# --- the sink: each callback becomes an event

cdef void on_random(void *ctx, uint8_t *out, size_t n) noexcept with gil:
    cdef bytes b = (<Endpoint>ctx)._random.randbytes(n)
    memcpy(out, PyBytes_AS_STRING(b), n)

cdef void on_up(void *ctx, vtl_assoc *a) noexcept with gil:
    (<Endpoint>ctx)._emit(events.AssociationUp((<Endpoint>ctx)._assoc_handle(a), unpack_addr(vtl_peer(a))))

cdef void on_down(void *ctx, vtl_assoc *a, uint32_t reason) noexcept with gil:
    cdef Endpoint self = <Endpoint>ctx
    handle = self._assoc_handle(a)
    del self._assocs[handle]
    self._emit(events.AssociationDown(handle, reason))

cdef void on_opened(void *ctx, vtl_stream *s, const vtl_open_info *i) noexcept with gil:
    cdef Endpoint self = <Endpoint>ctx
    flow = self._new_flow(s)
    self._emit(events.FlowOpened(self._of(s), flow, i.locator, bool(i.committed), i.proof))

cdef void on_accepted(void *ctx, vtl_stream *s) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.FlowAccepted, s)

cdef void on_rejected(void *ctx, vtl_stream *s, uint32_t code) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.FlowRejected, s, code)

cdef void on_confirmed(void *ctx, vtl_stream *s) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.FlowConfirmed, s)

cdef void on_cancelled(void *ctx, vtl_stream *s) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.FlowCancelled, s)

cdef void on_data(void *ctx, vtl_stream *s, const uint8_t *data, size_t n, bint stable) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.DataReceived, s, (<const char *>data)[:n])

cdef void on_fin(void *ctx, vtl_stream *s) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.FinReceived, s)

cdef void on_reset(void *ctx, vtl_stream *s, uint32_t code) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.FlowReset, s, code)

cdef void on_acked(void *ctx, vtl_stream *s, size_t n) noexcept with gil:
    (<Endpoint>ctx)._flow_event(events.DataAcked, s, n)

cdef void on_release(void *ctx, void *owner, size_t n) noexcept with gil:
    (<Endpoint>ctx)._release(<uintptr_t>owner, n)

cdef void on_closed(void *ctx, vtl_stream *s) noexcept with gil:
    cdef Endpoint self = <Endpoint>ctx
    self._flow_event(events.FlowClosed, s)
    del self._flows[flow_of(s)]

cdef void on_block(void *ctx, vtl_assoc *a, const vtl_block *b, bint stable) noexcept with gil:
    cdef Endpoint self = <Endpoint>ctx
    cdef bytes data = (<const char *>b.data)[:b.n]
    self._emit(events.BlockReceived(self._assoc_handle(a), b.id, b.position, b.epoch, b.flags, data))

cdef void on_hole(void *ctx, vtl_assoc *a, const vtl_block *b) noexcept with gil:
    cdef Endpoint self = <Endpoint>ctx
    self._emit(events.HoleReceived(self._assoc_handle(a), b.id, b.position, b.epoch, b.flags, b.n))

cdef void on_message(void *ctx, vtl_assoc *a, const uint8_t *p, size_t n) noexcept with gil:
    cdef Endpoint self = <Endpoint>ctx
    self._emit(events.MessageReceived(self._assoc_handle(a), (<const char *>p)[:n]))

cdef uint32_t on_report(void *ctx, void *user, uint8_t *out) noexcept with gil:
    cdef bytes newest = (<Endpoint>ctx)._reports.get(<uintptr_t>user, b"")
    memcpy(out, PyBytes_AS_STRING(newest), len(newest))
    return <uint32_t>len(newest)

cdef void on_channel_down(void *ctx, void *user, uint32_t reason) noexcept with gil:
    cdef Endpoint self = <Endpoint>ctx
    self._emit(events.ChannelDown(self._channels[<uintptr_t>user][1], <uintptr_t>user, reason))


ctypedef void *(*successor)(void *) noexcept


cdef void *next_by_cid(void *a) noexcept:
    return (<Assoc *>a).by_cid


cdef void *next_by_addr(void *a) noexcept:
    return (<Assoc *>a).by_addr


cdef void *next_source(void *s) noexcept:
    return (<Source *>s).next


cdef void *next_stream(void *s) noexcept:
    return (<Stream *>s).bucket


cdef uint32_t longest(void **table, uint32_t cap, successor after) noexcept:
    """Of the chains in a hash table."""
    cdef uint32_t most = 0, n, i
    cdef void *p
    for i in range(cap):
        n = 0
        p = table[i]
        while p != NULL:
            n += 1
            p = after(p)
        most = max(most, n)
    return most


@no_gc_clear                   # what vtl_endpoint_free gives back needs _owners
cdef class Endpoint:
    """One VTL endpoint: all its associations and their flows.

    ``seed`` makes it deterministic. The keywords are those of ``vtl_config``: sizes in bytes, times
    in nanoseconds, ``congestion`` a name out of :func:`hooker.vtl.congestion.names`, ``reliability`` one of
    :func:`hooker.vtl.reliability.names`, and ``accepts`` some of those: what peers may begin, too.
    """

    cdef vtl_endpoint *_ep
    cdef vtl_batch _batch
    cdef object _random
    cdef object _events
    cdef dict _assocs          # handle → pointer
    cdef dict _flows           # handle → pointer
    cdef dict _owners          # id → [bytes, bytes not yet released]
    cdef dict _channels        # handle → (pointer, association's handle)
    cdef dict _reports         # handle → the newest
    cdef uintptr_t _next_handle

    def __cinit__(self, *, seed=0, **config):
        cdef vtl_config cfg
        cdef vtl_sink sink
        cdef bytes name
        unknown = set(config) - set(DEFAULTS)
        if unknown:
            raise TypeError(f"unknown configuration {sorted(unknown)}; known: {sorted(DEFAULTS)}")
        c = {**DEFAULTS, **config}
        if c["keys"] and "versions" not in config:
            c["versions"] = ENCRYPTED_VERSIONS
        if c["congestion"] not in congestion.names():
            known = congestion.names()
            raise ValueError(f"unknown congestion controller {c['congestion']!r}; known: {known}")
        for name_ in (c["reliability"], *c["accepts"]):
            if name_ not in functions.names():
                raise ValueError(f"unknown reliability function {name_!r}; known: {functions.names()}")
        for setting, (low, high) in RANGES.items():
            c[setting] = checks.integer(setting, c[setting], low, high)
        if c["first_datagram"]:         # 0: max_datagram
            checks.integer("first_datagram", c["first_datagram"], *RANGES["max_datagram"])
        if not 1 <= len(c["versions"]) <= VTL_MAX_VERSIONS:
            raise ValueError(f"versions {c['versions']}: give 1 to {VTL_MAX_VERSIONS}")
        if len(c["keys"]) > VTL_MAX_KEYS or any(len(k) != VTL_KEY_SIZE for k in c["keys"]):
            raise ValueError(f"keys: give at most {VTL_MAX_KEYS}, of {VTL_KEY_SIZE} bytes each")
        if any((v >> 8 == 1) != bool(c["keys"]) for v in c["versions"]):
            raise ValueError(f"versions {c['versions']}: encrypted ones, and no others, need a key")
        self._random = random.Random(seed)
        self._events = deque()
        self._assocs, self._flows, self._owners, self._channels, self._reports = {}, {}, {}, {}, {}
        self._next_handle = 1
        memset(&cfg, 0, sizeof(cfg))
        cfg.n_versions = len(c["versions"])
        for i, version in enumerate(c["versions"]):
            cfg.versions[i] = version
        cfg.keys = len(c["keys"])
        for i, key in enumerate(c["keys"]):
            memcpy(cfg.key[i], PyBytes_AS_STRING(key), VTL_KEY_SIZE)
        cfg.key_update_after = c["key_update_after"]
        cfg.fec = c["fec"]
        cfg.max_datagram = c["max_datagram"]
        cfg.first_datagram = c["first_datagram"]
        cfg.stream_window = c["stream_window"]
        cfg.assoc_window = c["assoc_window"]
        cfg.stream_window_max = c["stream_window_max"]
        cfg.assoc_window_max = c["assoc_window_max"]
        cfg.window_budget = c["window_budget"]
        cfg.budget = c["budget"]
        cfg.channel_queue = c["channel_queue"]
        cfg.max_ack_delay = c["max_ack_delay"]
        cfg.keepalive = c["keepalive"]
        cfg.dead_after = c["dead_after"]
        cfg.idle_after = c["idle_after"]
        cfg.handshake_timeout = c["handshake_timeout"]
        name = c["congestion"].encode()
        memcpy(cfg.congestion, PyBytes_AS_STRING(name), len(name))
        name = c["reliability"].encode()
        memcpy(cfg.reliability, PyBytes_AS_STRING(name), len(name))
        cfg.accepts = sum(1 << functions.codes()[name_] for name_ in set(c["accepts"]))
        cfg.window = c["window"]
        cfg.repeats = c["repeats"]
        cfg.deadline = c["deadline"]
        memset(&sink, 0, sizeof(sink))
        sink.ctx = <void *>self
        sink.random = on_random
        sink.assoc_up = on_up
        sink.assoc_down = on_down
        sink.opened = on_opened
        sink.accepted = on_accepted
        sink.rejected = on_rejected
        sink.confirmed = on_confirmed
        sink.cancelled = on_cancelled
        sink.data = on_data
        sink.fin = on_fin
        sink.reset = on_reset
        sink.acked = on_acked
        sink.release = on_release
        sink.closed = on_closed
        sink.block = on_block
        sink.message = on_message
        sink.hole = on_hole
        sink.report = on_report
        sink.channel_down = on_channel_down
        self._batch.iov = <iovec *>malloc(IOVS * sizeof(iovec))
        self._batch.dgram = <vtl_datagram *>malloc(DGRAMS * sizeof(vtl_datagram))
        self._batch.scratch = <uint8_t *>malloc(SCRATCH)
        self._batch.iov_cap = IOVS
        self._batch.dgram_cap = DGRAMS
        self._batch.scratch_cap = SCRATCH
        self._batch.sealed_cap = DGRAMS * cfg.max_datagram
        self._batch.sealed = <uint8_t *>malloc(self._batch.sealed_cap)
        self._ep = vtl_endpoint_new(&cfg, &sink)
        if self._ep == NULL or not self._batch.iov or not self._batch.dgram or not self._batch.scratch or not self._batch.sealed:
            raise MemoryError("VTL endpoint")

    def __dealloc__(self):
        if self._ep != NULL:
            vtl_endpoint_free(self._ep)
        free(self._batch.iov)
        free(self._batch.dgram)
        free(self._batch.scratch)
        free(self._batch.sealed)

    # --- bookkeeping

    cdef void _emit(self, event) except *:
        self._events.append(event)

    cdef void _flow_event(self, kind, vtl_stream *s, arg=None) except *:
        if arg is None:
            self._events.append(kind(self._of(s), flow_of(s)))
        else:
            self._events.append(kind(self._of(s), flow_of(s), arg))

    cdef object _assoc_handle(self, vtl_assoc *a):
        cdef uintptr_t handle = <uintptr_t>vtl_user(a)
        if handle == 0:
            handle = self._next_handle
            self._next_handle += 1
            vtl_set_user(a, <void *>handle)
            self._assocs[handle] = <uintptr_t>a
        return handle

    cdef object _of(self, vtl_stream *s):
        return self._assoc_handle(vtl_stream_assoc(s))

    cdef object _new_flow(self, vtl_stream *s):
        cdef uintptr_t handle = self._next_handle
        self._next_handle += 1
        vtl_stream_set_user(s, <void *>handle)
        self._flows[handle] = <uintptr_t>s
        return handle

    cdef void _release(self, uintptr_t owner, size_t n) except *:
        entry = self._owners[owner]
        entry[1] -= n
        if entry[1] < 0:
            raise AssertionError("more bytes released than borrowed")
        if entry[1] == 0:
            del self._owners[owner]

    cdef vtl_stream *_flow(self, flow) except NULL:
        p = self._flows.get(flow)
        if p is None:
            raise KeyError(f"no flow {flow}")
        return <vtl_stream *><uintptr_t>p

    cdef vtl_channel *_channel(self, channel) except NULL:
        p = self._channels.get(channel)
        if p is None:
            raise KeyError(f"no channel {channel}")
        return <vtl_channel *><uintptr_t>p[0]

    cdef vtl_assoc *_assoc(self, assoc) except NULL:
        p = self._assocs.get(assoc)
        if p is None:
            raise KeyError(f"no association {assoc}")
        return <vtl_assoc *><uintptr_t>p

    # --- the five verbs

    def receive_datagram(self, bytes data not None, addr, uint64_t now, uint8_t ecn=0, local=None):
        """Takes one datagram; returns ``"ok"`` or why it was dropped. ``ecn``: two bits of its IP header; ``local``: which of
        our addresses it came to, where that matters."""
        cdef vtl_addr a = pack_addr(addr)
        if local is not None:
            pack_ip(local, a.local)
        copy = bytearray(data)                  # decrypted in place
        return DROP_REASONS[vtl_recv(self._ep, <uint8_t *>PyByteArray_AS_STRING(copy), len(copy), &a, ecn, now)]

    def datagrams_to_send(self, uint64_t now, *, bint ecn=False):
        """All datagrams that may leave now, as ``(bytes, address)``; with ``ecn``, and the bits for the IP header."""
        out = []
        while True:
            self._batch.iov_len = self._batch.dgram_len = self._batch.scratch_len = self._batch.sealed_len = 0
            if vtl_build(self._ep, &self._batch, now) == 0:
                return out
            self._collect(out, ecn)

    cdef void _collect(self, list out, bint ecn) except *:
        cdef vtl_datagram *d
        cdef uint32_t i, j
        for i in range(self._batch.dgram_len):
            d = &self._batch.dgram[i]
            parts = []
            for j in range(d.first, d.first + d.count):
                parts.append((<const char *>self._batch.iov[j].iov_base)[:self._batch.iov[j].iov_len])
            data = b"".join(parts)
            if len(data) != d.size:
                raise AssertionError(f"datagram of {len(data)} bytes says {d.size}")
            out.append((data, unpack_addr(&d.to), d.ecn) if ecn else (data, unpack_addr(&d.to)))

    def get_timer(self):
        """The next deadline in nanoseconds, or None."""
        cdef uint64_t t = vtl_timer(self._ep)
        return None if t == UINT64_MAX else t

    def handle_timer(self, uint64_t now):
        """To be called at or after the deadline."""
        vtl_on_timer(self._ep, now)

    def next_event(self):
        """The oldest event not yet taken, or None."""
        return self._events.popleft() if self._events else None

    # --- associations and flows

    def connect(self, addr, uint64_t now, *, str reliability=None):
        """An association to that address: the one there is, or a new one. Returns its handle. ``reliability``: None
        for that of the configuration. ValueError: an unknown one."""
        cdef vtl_addr a = pack_addr(addr)
        cdef bytes name = (reliability or "").encode()
        cdef vtl_assoc *assoc
        if reliability is not None and reliability not in functions.names():
            raise ValueError(f"unknown reliability function {reliability!r}; known: {functions.names()}")
        assoc = vtl_connect_as(self._ep, &a, name, now) if name else vtl_connect(self._ep, &a, now)
        if assoc == NULL:
            raise MemoryError("association")
        return self._assoc_handle(assoc)

    def is_up(self, assoc):
        """Whether the handshake is done."""
        return bool(vtl_is_up(self._assoc(assoc)))

    def close(self, assoc, uint32_t reason, uint64_t now):
        """Ends an association and all its flows, and tells the peer."""
        vtl_close(self._assoc(assoc), reason, now)

    def open(self, assoc, uint64_t now, *, locator=None, bytes key=NO_KEY, committed=False):
        """Opens a flow; returns its handle. ``key``: 16 bytes that only its two ends know; ``locator``: None for
        that of the key."""
        cdef vtl_open_info info
        cdef vtl_stream *s
        fill_key(info.key, key)
        info.locator = vtl_locator(info.key) if locator is None else locator
        info.committed = committed
        s = vtl_open(self._assoc(assoc), &info, NULL, now)
        if s == NULL:
            raise ConnectionError("the association is down, or has no room for another flow")
        return self._new_flow(s)

    def prove(self, event, bytes key not None):
        """Whether who caused that :class:`events.FlowOpened` knows the flow's key; if so, accept() will say that we do."""
        cdef vtl_open_info info
        cdef uint8_t k[16]
        fill_key(k, key)
        info.proof, info.committed = event.proof, event.committed
        return bool(vtl_prove(self._flow(event.flow), &info, k))

    def accept(self, flow):
        """Accepts a flow the peer opened."""
        vtl_accept(self._flow(flow), <void *><uintptr_t>flow)

    def reject(self, flow, uint32_t code):
        """Rejects a flow the peer opened."""
        vtl_reject(self._flow(flow), code)

    def confirm(self, flow):
        """Says that the opener, we, is engaged."""
        vtl_confirm(self._flow(flow))

    def cancel(self, flow):
        """Takes back a flow of ours."""
        vtl_cancel(self._flow(flow))

    def write(self, flow, bytes data not None):
        """Sends bytes; they stay referenced, not copied, until acknowledged."""
        cdef vtl_stream *s = self._flow(flow)
        cdef uintptr_t owner = self._next_handle
        if not data:
            return
        self._next_handle += 1
        self._owners[owner] = [data, len(data)]
        if vtl_write(s, <const uint8_t *>PyBytes_AS_STRING(data), len(data), <void *>owner) < 0:
            del self._owners[owner]
            raise MemoryError("send buffer")

    def fin(self, flow):
        """Ends our direction after the bytes written."""
        vtl_fin(self._flow(flow))

    def reset(self, flow, uint32_t code):
        """Ends both directions at once."""
        vtl_reset(self._flow(flow), code)

    def consumed(self, flow, size_t n):
        """Gives credit back for bytes the application took; no effect on a flow closed meanwhile."""
        if flow in self._flows:
            vtl_consumed(self._flow(flow), n)

    def unacked(self, flow):
        """Bytes written and not yet acknowledged."""
        return vtl_unacked(self._flow(flow))

    def send_target(self, flow):
        """How many bytes to keep written ahead."""
        return vtl_send_target(self._flow(flow))

    def flow_id(self, flow):
        """The stream id on the wire."""
        return vtl_stream_id(self._flow(flow))

    # --- channels

    def channel_open(self, assoc):
        """A channel of the association, to be closed also when it is down; returns its handle."""
        cdef uintptr_t handle = self._next_handle
        cdef vtl_channel *c = vtl_channel_open(self._assoc(assoc), <void *>handle)
        if c == NULL:
            raise ConnectionError("the association is down, or has no room for another channel")
        self._next_handle += 1
        self._channels[handle] = (<uintptr_t>c, assoc)
        return handle

    def channel_close(self, channel):
        """Drops what it has to send, but for what it said."""
        vtl_channel_close(self._channel(channel))
        del self._channels[channel]
        self._reports.pop(channel, None)

    def channel_send(self, channel, uint32_t id, uint32_t position, bytes data not None, *, uint8_t epoch=0,
                     uint8_t flags=0):
        """Sends a block; its bytes stay referenced, not copied, until acknowledged. False: the queue is full."""
        cdef vtl_channel *c = self._channel(channel)
        cdef uintptr_t owner = self._next_handle
        cdef vtl_block b
        b.id, b.position, b.epoch, b.flags = id, position, epoch, flags
        b.n = len(data)
        b.data = <const uint8_t *>PyBytes_AS_STRING(data)
        if vtl_channel_send(c, &b, <void *>owner) < 0:
            return False
        self._next_handle += 1
        if data:
            self._owners[owner] = [data, len(data)]
        return True

    def channel_say(self, channel, bytes data not None):
        """Sends a control message of 1 to 96 bytes. False: too many wait."""
        cdef vtl_channel *c = self._channel(channel)
        return vtl_channel_say(c, <const uint8_t *>PyBytes_AS_STRING(data), len(data)) == 0

    def channel_report(self, channel, bytes data not None):
        """``data`` (at most 96 bytes; none: nothing) is what the channel reports from now on."""
        cdef vtl_channel *c = self._channel(channel)
        if len(data) > VTL_MAX_MESSAGE:
            raise ValueError(f"a report has at most {VTL_MAX_MESSAGE} bytes, not {len(data)}")
        self._reports[channel] = data
        vtl_channel_report(c)

    def channel_unacked(self, channel):
        """Bytes of blocks that the peer has not acknowledged."""
        return vtl_channel_unacked(self._channel(channel))

    def channel_at_rest(self, channel):
        """Nothing of it is queued or on its way."""
        return vtl_channel_at_rest(self._channel(channel))

    def hold(self, assoc):
        """Keeps the association alive without a channel, until as many calls of let_go()."""
        vtl_hold(self._assoc(assoc))

    def let_go(self, assoc):
        """Takes one hold() back."""
        vtl_let_go(self._assoc(assoc))

    def say(self, assoc, bytes data not None):
        """Sends a control message of no channel. False: too many wait."""
        return vtl_say(self._assoc(assoc), <const uint8_t *>PyBytes_AS_STRING(data), len(data)) == 0

    def path_error(self, addr, uint64_t now, bytes quoted not None=b""):
        """ICMP said that the address cannot be reached; ``quoted``: the beginning of the datagram it is about."""
        cdef vtl_addr a = pack_addr(addr)
        vtl_path_error(self._ep, &a, <const uint8_t *>PyBytes_AS_STRING(quoted), len(quoted), now)

    def drops(self):
        """Datagrams dropped, by reason."""
        return {DROP_REASONS[i]: vtl_drops(self._ep, i) for i in range(1, VTL_DROP_REASONS)}

    def counters(self):
        """What the endpoint counts beside drops, by name."""
        cdef vtl_counters c
        vtl_get_counters(self._ep, &c)
        return c

    def longest_chains(self):
        """How many associations (by id, by address), sources and streams of one association share a bucket, at most."""
        cdef CoreEndpoint *ep = <CoreEndpoint *>self._ep
        cdef Assoc *a = ep.all
        cdef uint32_t streams = 0
        while a != NULL:
            streams = max(streams, longest(<void **>a.table, a.table_cap, next_stream))
            a = a.next
        return {
            "ids": longest(<void **>ep.cid_table, ep.table_cap, next_by_cid),
            "addresses": longest(<void **>ep.addr_table, ep.table_cap, next_by_addr),
            "sources": longest(<void **>ep.source_table, ep.source_cap, next_source),
            "streams": streams,
        }

    def peer(self, assoc):
        """The peer's address, as it is now."""
        return unpack_addr(vtl_peer(self._assoc(assoc)))

    def stats(self, assoc):
        """Counters and path estimates of one association."""
        cdef vtl_assoc_stats s
        vtl_assoc_get_stats(self._assoc(assoc), &s)
        return s

    def reliability(self, assoc):
        """The name of its reliability function, once it is up."""
        return vtl_reliability(self._assoc(assoc)).decode()

    def repairs(self, assoc):
        """Whether that function sends again what is lost."""
        return bool(vtl_repairs(self._assoc(assoc)))

    @property
    def associations(self):
        """Handles of the associations there are."""
        return tuple(self._assocs)

    @property
    def flows(self):
        """Handles of the flows there are."""
        return tuple(self._flows)

    @property
    def borrowed(self):
        """Bytes written, or sent as blocks, whose memory VTL still holds."""
        return sum(entry[1] for entry in self._owners.values())
