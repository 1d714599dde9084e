"""Two endpoints joined in memory, without a network: what the core costs by itself.

For benchmarks and profiles. The caller times :meth:`Loopback.build` and :meth:`Loopback.receive`
apart; what a kernel would do in between (copying the datagrams) is in :meth:`Loopback.carry`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from hooker.vtl.api cimport *
from hooker.vtl.endpoint cimport *

cdef enum:
    DGRAMS = 256
    IOVS = 4096
    SCRATCH = 512 << 10
    SLOT = 2048                # bytes per received datagram
    BLOCK = 1 << 20            # bytes of payload written at once


cdef struct Side:
    vtl_endpoint *ep
    vtl_stream *stream
    uint64_t received, acked, released, rng
    vtl_addr addr
    bint accepts


cdef void on_random(void *ctx, uint8_t *out, size_t n) noexcept nogil:
    cdef Side *s = <Side *>ctx
    cdef size_t i
    for i in range(n):
        s.rng = s.rng * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        out[i] = s.rng >> 56

cdef void on_assoc(void *ctx, vtl_assoc *a) noexcept nogil:
    pass

cdef void on_down(void *ctx, vtl_assoc *a, uint32_t reason) noexcept nogil:
    pass

cdef void on_opened(void *ctx, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    (<Side *>ctx).stream = s
    vtl_accept(s, NULL)

cdef void on_stream(void *ctx, vtl_stream *s) noexcept nogil:
    pass

cdef void on_code(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil:
    pass

cdef void on_data(void *ctx, vtl_stream *s, const uint8_t *data, size_t n, bint stable) noexcept nogil:
    (<Side *>ctx).received += n
    vtl_consumed(s, n)

cdef void on_acked(void *ctx, vtl_stream *s, size_t n) noexcept nogil:
    (<Side *>ctx).acked += n

cdef void on_release(void *ctx, void *owner, size_t n) noexcept nogil:
    (<Side *>ctx).released += n


cdef void on_block(void *ctx, vtl_assoc *a, const vtl_block *b, bint stable) noexcept nogil:
    (<Side *>ctx).received += b.n


cdef class Loopback:
    """One association, `streams` flows from the first endpoint to the second; as blocks with `channels`."""

    cdef Side side[2]
    cdef vtl_batch batch
    cdef uint8_t *wire         # DGRAMS slots
    cdef uint32_t size[DGRAMS]
    cdef uint32_t count
    cdef uint8_t *payload
    cdef vtl_stream **flow
    cdef vtl_channel **channel # NULL: streams
    cdef uint32_t *position    # of each channel
    cdef uint32_t flows
    cdef uint64_t now
    cdef uint32_t chunk

    def __cinit__(self, *, uint32_t streams=1, uint32_t chunk=65536, max_datagram=1472,
                  bytes congestion=b"fixed", uint32_t version=1, bint channels=False):
        cdef vtl_config cfg
        cdef vtl_sink k
        cdef int i
        memset(&cfg, 0, sizeof(cfg))
        cfg.versions[0] = version
        cfg.n_versions = 1
        cfg.keys = version >> 8                 # all zeros, if any
        cfg.max_datagram = max_datagram
        cfg.stream_window = cfg.assoc_window = 1 << 30
        cfg.max_ack_delay = 1000000
        cfg.keepalive = cfg.dead_after = cfg.idle_after = cfg.handshake_timeout = <uint64_t>1 << 60
        memcpy(cfg.congestion, <char *>congestion, len(congestion))
        memset(&k, 0, sizeof(k))
        k.random = on_random
        k.assoc_up = on_assoc
        k.assoc_down = on_down
        k.opened = on_opened
        k.accepted = k.confirmed = k.cancelled = k.fin = k.closed = on_stream
        k.rejected = k.reset = on_code
        k.data = on_data
        k.acked = on_acked
        k.release = on_release
        k.block = on_block
        for i in range(2):
            self.side[i].rng = i + 1
            self.side[i].addr.port = i + 1
            k.ctx = &self.side[i]
            self.side[i].ep = vtl_endpoint_new(&cfg, &k)
        self.batch.iov = <iovec *>malloc(IOVS * sizeof(iovec))
        self.batch.dgram = <vtl_datagram *>malloc(DGRAMS * sizeof(vtl_datagram))
        self.batch.scratch = <uint8_t *>malloc(SCRATCH)
        self.batch.iov_cap = IOVS
        self.batch.dgram_cap = DGRAMS
        self.batch.scratch_cap = SCRATCH
        self.batch.sealed = <uint8_t *>malloc(DGRAMS * SLOT)
        self.batch.sealed_cap = DGRAMS * SLOT
        self.wire = <uint8_t *>malloc(DGRAMS * SLOT)
        self.payload = <uint8_t *>calloc(1, BLOCK)
        self.flow = <vtl_stream **>calloc(streams, sizeof(vtl_stream *))
        if channels:
            self.channel = <vtl_channel **>calloc(streams, sizeof(vtl_channel *))
            self.position = <uint32_t *>calloc(streams, sizeof(uint32_t))
        self.flows = streams
        self.chunk = chunk
        self._open()

    def __dealloc__(self):
        for i in range(2):
            if self.side[i].ep != NULL:
                vtl_endpoint_free(self.side[i].ep)
        free(self.batch.iov)
        free(self.batch.dgram)
        free(self.batch.scratch)
        free(self.batch.sealed)
        free(self.wire)
        free(self.payload)
        free(self.flow)
        free(self.channel)
        free(self.position)

    cdef void _open(self) except *:
        cdef vtl_open_info info
        cdef vtl_assoc *a = vtl_connect(self.side[0].ep, &self.side[1].addr, 0)
        cdef uint32_t i
        memset(&info, 0, sizeof(info))
        info.committed = True
        for i in range(self.flows):
            if self.channel != NULL:
                self.channel[i] = vtl_channel_open(a, NULL)
                continue
            self.flow[i] = vtl_open(a, &info, NULL, 0)
        for _ in range(8):
            self.step(0)
            self.step(1)

    cdef void _send(self, uint32_t i, const uint8_t *data, uint32_t n) except *:
        cdef vtl_block b
        b.id = i
        b.position = self.position[i]
        b.epoch = b.flags = 0
        b.n = n
        b.data = data
        if vtl_channel_send(self.channel[i], &b, self.payload) < 0:
            raise MemoryError("the channel is full")
        self.position[i] += n

    def write(self):
        """One block of payload, dealt out to the flows in chunks."""
        cdef uint32_t at = 0, i = 0
        while at < BLOCK:
            if self.channel != NULL:
                self._send(i, self.payload + at, min(self.chunk, BLOCK - at))
            else:
                vtl_write(self.flow[i], self.payload + at, min(self.chunk, BLOCK - at), self.payload)
            at += self.chunk
            i = (i + 1) % self.flows

    def build(self, int side):
        """One vtl_build; the number of datagrams."""
        self.batch.iov_len = self.batch.dgram_len = self.batch.scratch_len = self.batch.sealed_len = 0
        with nogil:
            vtl_build(self.side[side].ep, &self.batch, self.now)
        return self.batch.dgram_len

    def carry(self):
        """Copies the datagrams just built to where they are received."""
        cdef uint32_t i, j, n
        cdef vtl_datagram *d
        for i in range(self.batch.dgram_len):
            d = &self.batch.dgram[i]
            n = 0
            for j in range(d.first, d.first + d.count):
                memcpy(self.wire + i * SLOT + n, self.batch.iov[j].iov_base, self.batch.iov[j].iov_len)
                n += self.batch.iov[j].iov_len
            self.size[i] = n
        self.count = self.batch.dgram_len
        self.now += 1000

    def receive(self, int side):
        """vtl_recv for each datagram carried; how many were dropped."""
        cdef uint32_t i, dropped = 0
        with nogil:
            for i in range(self.count):
                dropped += vtl_recv(self.side[side].ep, self.wire + i * SLOT, self.size[i],
                                    &self.side[1 - side].addr, 0, self.now) != VTL_OK
        return dropped

    def step(self, int side):
        """Everything one side may send, carried and received."""
        cdef uint32_t n = 0
        while self.build(side):
            self.carry()
            self.receive(1 - side)
            n += self.count
        return n

    @property
    def received(self):
        """Payload bytes the second endpoint delivered."""
        return self.side[1].received

    @property
    def acked(self):
        """Payload bytes the first endpoint knows to be there."""
        return self.side[0].acked if self.channel == NULL else self.side[0].released
