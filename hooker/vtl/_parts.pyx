"""Python faces of single parts of VTL, for property tests and for trying a controller by hand."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset
cimport hooker.vtl.controllers.interface as cc
cimport hooker.vtl.pages as pg
cimport hooker.vtl.ranges as rg
cimport hooker.vtl.reassembly as ra
cimport hooker.vtl.sendbuf as sb
cimport hooker.vtl.wire as wire
from hooker.includes.siphash cimport siphash24
from hooker.vtl cimport aead
from hooker.vtl.api cimport iovec


def siphash(bytes key not None, bytes data not None):
    """SipHash-2-4 of data under a 16-byte key."""
    cdef uint64_t k[2]
    if len(key) != 16:
        raise ValueError("the key has 16 bytes")
    memcpy(k, PyBytes_AS_STRING(key), 16)
    return siphash24(k, <const uint8_t *>PyBytes_AS_STRING(data), len(data))


def hkdf_extract(bytes salt not None, bytes key not None):
    """HKDF-Extract with SHA-256."""
    cdef uint8_t out[aead.SECRET_SIZE]
    aead.hkdf_extract(<const uint8_t *>PyBytes_AS_STRING(salt), len(salt),
                      <const uint8_t *>PyBytes_AS_STRING(key), len(key), out)
    return (<const char *>out)[:aead.SECRET_SIZE]


def hkdf_expand(bytes secret not None, bytes info not None, size_t n):
    """HKDF-Expand with SHA-256: up to 32 bytes, with up to 127 of info."""
    cdef uint8_t out[aead.SECRET_SIZE]
    if len(secret) != aead.SECRET_SIZE or len(info) > 127 or n > aead.SECRET_SIZE:
        raise ValueError("the secret has 32 bytes, info at most 127, the result at most 32")
    aead.hkdf_expand(<const uint8_t *>PyBytes_AS_STRING(secret), <const uint8_t *>PyBytes_AS_STRING(info),
                     len(info), out, n)
    return (<const char *>out)[:n]


cdef class Aead:
    """One key of a cipher: 1 AES-128-GCM, 2 AES-256-GCM, 3 ChaCha20-Poly1305."""

    cdef aead.EVP_CIPHER_CTX *ctx
    cdef bytes iv
    cdef bint seals
    cdef uint32_t cipher

    def __cinit__(self, uint32_t cipher, bytes key not None, bytes iv not None, *, bint seals):
        self.cipher, self.seals = cipher, seals
        self.set_key(key, iv)

    def __dealloc__(self):
        aead.aead_free(self.ctx)

    def set_key(self, bytes key not None, bytes iv not None):
        """Another key, as after an update."""
        cdef aead.EVP_CIPHER_CTX *ctx
        if len(key) != aead.aead_key_size(self.cipher) or len(iv) != aead.IV_SIZE:
            raise ValueError("no such cipher, or a key or an iv of the wrong size")
        self.iv = iv
        ctx = aead.aead_start(self.ctx, self.cipher, <const uint8_t *>PyBytes_AS_STRING(key), self.seals)
        if ctx == NULL:
            raise MemoryError("cipher")
        self.ctx = ctx

    def seal(self, uint64_t number, bytes header not None, list parts not None):
        """The parts encrypted, and the tag."""
        cdef iovec iov[16]
        cdef bytearray out = bytearray(sum(map(len, parts)) + aead.TAG_SIZE)
        if len(parts) > 16:
            raise ValueError("at most 16 parts")
        for i, part in enumerate(parts):
            iov[i].iov_base = PyBytes_AS_STRING(part)
            iov[i].iov_len = len(part)
        if not aead.aead_seal(self.ctx, <const uint8_t *>PyBytes_AS_STRING(self.iv), number,
                              <const uint8_t *>PyBytes_AS_STRING(header), len(header), iov, len(parts),
                              <uint8_t *>PyByteArray_AS_STRING(out)):
            raise MemoryError("encryption")
        return bytes(out)

    def open(self, uint64_t number, bytes header not None, bytes data not None):
        """What was sealed, or None."""
        cdef bytearray copy = bytearray(data)
        if not aead.aead_open(self.ctx, <const uint8_t *>PyBytes_AS_STRING(self.iv), number,
                              <const uint8_t *>PyBytes_AS_STRING(header), len(header),
                              <uint8_t *>PyByteArray_AS_STRING(copy), len(copy)):
            return None
        return bytes(copy[:-aead.TAG_SIZE])


def read_header(bytes data not None):
    """(version, type, connection id, number), or None when the bytes are too few."""
    cdef wire.Cursor c
    cdef wire.Header h
    c.p = <const uint8_t *>PyBytes_AS_STRING(data)
    c.n = PyBytes_GET_SIZE(data)
    return (h.version, h.type, h.dcid, h.number) if wire.read_header(&c, &h) else None


def write_header(uint8_t type, uint64_t dcid, uint64_t number):
    """The 20 bytes that a datagram of the handshake, or a CLOSE, begins with."""
    cdef uint8_t out[wire.HEADER_SIZE]
    wire.write_header(out, type, dcid, number)
    return (<const char *>out)[:wire.HEADER_SIZE]


def write_short_header(uint8_t type, uint64_t dcid, uint64_t number):
    """The 13 bytes that DATA and STATELESS_RESET begin with."""
    cdef uint8_t out[wire.DATA_HEADER]
    wire.write_short_header(out, type, dcid, number)
    return (<const char *>out)[:wire.DATA_HEADER]


def expand(uint32_t low, uint64_t near):
    """The number with these lower 32 bits that is nearest to `near`."""
    return wire.expand(low, near)


def frame_size(uint8_t type):
    """Bytes of a frame's fixed part; 0: there is no such frame."""
    return wire.frame_size(type)


def read_init(bytes body not None):
    """The fields of an INIT body, or None."""
    cdef wire.Cursor c
    cdef wire.Init i
    c.p = <const uint8_t *>PyBytes_AS_STRING(body)
    c.n = PyBytes_GET_SIZE(body)
    if not wire.read_init(&c, &i):
        return None
    versions = [wire.load32(i.versions.list + 4 * j) for j in range(i.versions.n)]
    return {"max_ack_delay_us": i.max_ack_delay_us, "max_data": i.max_data,
            "max_stream_data": i.max_stream_data, "cookie_cid": i.cookie_cid,
            "cookie_time": i.cookie_time, "cookie_mac": i.cookie_mac, "versions": versions}


cdef class Pages:
    """Memory of objects of `size` bytes, a multiple of 8; an object is a number."""

    cdef pg.pages p
    cdef set objects

    def __cinit__(self, size_t size):
        if size % 8 or not 8 <= size <= 4096:
            raise ValueError(f"a multiple of 8 up to 4096, not {size}")
        self.p.size = size
        self.objects = set()

    def __dealloc__(self):
        for one in self.objects:
            pg.pages_give(<void *><uintptr_t>one)
        pg.pages_free(&self.p)

    def take(self):
        """Raises MemoryError."""
        cdef uint8_t *one = <uint8_t *>pg.pages_take(&self.p)
        cdef size_t i
        if one == NULL:
            raise MemoryError("an object")
        for i in range(self.p.size):
            if one[i]:
                raise AssertionError("it is not zeroed")
        memset(one, 0xff, self.p.size)
        self.objects.add(<uintptr_t>one)
        return <uintptr_t>one

    def give(self, one):
        """Raises KeyError: it is none."""
        self.objects.remove(one)
        pg.pages_give(<void *><uintptr_t>one)

    @property
    def pages(self):
        return self.p.n


cdef class RangeSet:
    """A set of integers."""

    cdef rg.RangeSet r

    def __dealloc__(self):
        rg.ranges_clear(&self.r)

    def add(self, uint64_t start, uint64_t end, uint32_t limit=1 << 20):
        """Adds [start, end); False: over the limit, nothing changed."""
        return rg.ranges_add(&self.r, start, end, limit) == 0

    def trim(self, uint64_t below):
        """Forgets everything below."""
        rg.ranges_trim(&self.r, below)

    def __contains__(self, uint64_t x):
        return bool(rg.ranges_contains(&self.r, x))

    def ranges(self):
        """The ranges, ascending."""
        return [(self.r.v[i].start, self.r.v[i].end) for i in range(self.r.n)]


cdef class Reassembly:
    """Out-of-order bytes of one stream."""

    cdef ra.Reassembly r

    def __dealloc__(self):
        ra.reassembly_clear(&self.r)

    def store(self, uint64_t offset, bytes data not None):
        """Keeps bytes; False: too many holes."""
        return ra.reassembly_store(&self.r, offset, <const uint8_t *>PyBytes_AS_STRING(data), len(data)) == 0

    def read(self):
        """Takes everything that is in order now."""
        cdef const uint8_t *p = NULL
        cdef size_t n
        out = []
        while True:
            n = ra.reassembly_peek(&self.r, &p)
            if n == 0:
                return b"".join(out)
            out.append((<const char *>p)[:n])
            ra.reassembly_advance(&self.r, self.r.next + n)

    def advance(self, uint64_t offset):
        """Bytes before offset came another way."""
        ra.reassembly_advance(&self.r, offset)

    @property
    def pages(self):
        """Pages allocated."""
        return sum(self.r.page[i] != NULL for i in range(self.r.pages))


cdef void on_release(void *ctx, void *owner, size_t n) noexcept with gil:
    (<SendBuffer>ctx).released.append((<uintptr_t>owner, n))


cdef class SendBuffer:
    """A stream's send side over Python bytes."""

    cdef sb.SendBuf b
    cdef list kept
    cdef readonly list released

    def __cinit__(self):
        self.kept = []
        self.released = []

    def __dealloc__(self):
        rg.ranges_clear(&self.b.done)
        rg.ranges_clear(&self.b.lost)

    def write(self, bytes data not None, uintptr_t owner):
        """Lends bytes."""
        self.kept.append(data)
        return sb.sendbuf_write(&self.b, <const uint8_t *>PyBytes_AS_STRING(data), len(data), <void *>owner)

    def send(self, uint64_t limit, size_t max_len):
        """The next (offset, bytes) to send, or None."""
        cdef sb.Segment g
        cdef const uint8_t *p
        cdef size_t n = 0, got = 0
        if not sb.sendbuf_peek(&self.b, limit, max_len, &g):
            return None
        out = []
        while got < g.len:
            p = sb.sendbuf_at(&self.b, g.offset + got, g.again, &n)
            n = min(n, g.len - got)
            out.append((<const char *>p)[:n])
            got += n
        sb.sendbuf_commit(&self.b, &g)
        return g.offset, b"".join(out)

    def on_acked(self, uint64_t offset, size_t n):
        """The peer has these bytes."""
        sb.sendbuf_on_acked(&self.b, offset, n)
        sb.sendbuf_release(&self.b, self.b.acked, on_release, <void *>self)

    def on_lost(self, uint64_t offset, size_t n):
        """These bytes are to be sent again."""
        sb.sendbuf_on_lost(&self.b, offset, n)

    def clear(self):
        """Gives everything back."""
        sb.sendbuf_clear(&self.b, on_release, <void *>self)

    @property
    def acked(self):
        """Length of the acknowledged prefix."""
        return self.b.acked

    @property
    def end(self):
        """Bytes written."""
        return self.b.end


cdef class Controller:
    """A congestion controller by name."""

    cdef cc.Congestion c

    def __cinit__(self, str name, uint64_t mss=1472):
        cdef bytes b = name.encode()
        cdef const cc.congestion_ops *ops = cc.congestion_find(b)
        if ops == NULL:
            raise ValueError(f"unknown congestion controller {name!r}")
        cc.congestion_init(&self.c, ops, mss)

    def on_ack(self, uint64_t now, uint64_t n, uint64_t sent_at, uint64_t rtt, bint limited=False,
               uint64_t rate=0):
        """An ACK for n bytes, the newest sent at sent_at; with a `rate` (bytes/s) a round trip's first."""
        cdef cc.CongestionAck a
        memset(&a, 0, sizeof(a))
        a.now, a.bytes, a.sent_at, a.limited = now, n, sent_at, limited
        a.srtt = a.latest_rtt = a.min_rtt = rtt
        a.rate, a.rtt_sample, a.round_start = rate, rate > 0, rate > 0
        cc.congestion_on_ack(&self.c, &a)

    def on_loss(self, uint64_t sent_at, uint64_t now, *, uint32_t packets=1, bint persistent=False):
        """Loss of packets, the newest sent at sent_at."""
        cc.congestion_on_loss(&self.c, packets, sent_at, now, persistent)

    def on_spurious(self, uint32_t packets):
        """So many of the losses were none."""
        cc.congestion_on_spurious(&self.c, packets)

    @property
    def cwnd(self):
        """Congestion window in bytes."""
        return self.c.w.cwnd

    @property
    def ssthresh(self):
        """Slow start threshold in bytes."""
        return self.c.w.ssthresh
