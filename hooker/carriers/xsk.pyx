"""AF_XDP sockets: packets lie in memory that the kernel shares, are read where they lie, and may be written.

1. Each socket has its own memory (UMEM), cut into chunks. The fill ring gives chunks to the kernel, the
   receive ring brings them back with a packet each. Of both one side moves the producer's index, and the
   other the consumer's.
2. A batch is of one socket; they take turns. Its chunks go back with the next call.
3. A packet of several chunks (Linux 6.6) is copied into one piece.
4. One that sends has chunks of its own for that: they go out by the transmit ring and come back by the
   completion ring. Many are given before the kernel is asked once to send them.
5. The socket of an interface that is gone hears nothing more. It makes room when another one is opened.

Documentation/networking/af_xdp.rst.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap,
)
from hooker.includes.linux cimport *
from hooker.includes.xdp cimport *

cdef enum:
    COMPLETIONS = 64           # of a ring that bind() wants, where nothing is sent
    SEND_ROOM = 8 << 20        # bytes: what all chunks to send are to the kernel
    AT_ONCE = 16               # the kernel takes no fewer in one call
    EPOLL_CLOEXEC_ = 0x80000


cdef int xsks_init(XskSet *s) noexcept nogil:
    cdef int i
    memset(s, 0, sizeof(XskSet))
    for i in range(XSK_MOST):
        s.all[i].fd = -1
    s.epoll = epoll_create1(EPOLL_CLOEXEC_)
    if s.epoll < 0:
        return -errno
    s.joined = <uint8_t *>malloc(XSK_BATCH * XSK_CHUNK)
    if s.joined == NULL:
        xsks_close(s)
        return -ENOMEM
    return 0


# ---- one of them -------------------------------------------------------------------------------------

cdef inline uint32_t chunks_of(const XskSet *s) noexcept nogil:
    return XSK_CHUNKS + (XSK_SENT_CHUNKS if s.sends else 0)


cdef void unmap(XskRing *r) noexcept nogil:
    if r.memory != NULL:
        munmap(r.memory, r.size)
    memset(r, 0, sizeof(XskRing))


cdef void xsk_close(XskSet *s, Xsk *x) noexcept nogil:
    if s.lent == x:
        s.lent_n = 0
    if x.fd >= 0:
        close(x.fd)
    x.fd = -1
    unmap(&x.fill)
    unmap(&x.rx)
    unmap(&x.tx)
    unmap(&x.done)
    if x.chunks != NULL:
        munmap(x.chunks, chunks_of(s) * XSK_CHUNK)
    x.chunks = NULL


cdef int map_ring(int fd, XskRing *r, const xdp_ring_offset *where, size_t bytes_,
                  uint64_t page) noexcept nogil:
    cdef size_t size = where.desc + bytes_
    cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, page)
    if p == MAP_FAILED:
        return -errno
    r.memory, r.size = p, size
    r.producer = <uint32_t *>(<char *>p + where.producer)
    r.consumer = <uint32_t *>(<char *>p + where.consumer)
    r.flags = <uint32_t *>(<char *>p + where.flags)
    r.entries = <char *>p + where.desc
    return 0


cdef int set_ring(int fd, int name, uint32_t entries) noexcept nogil:
    return setsockopt(fd, SOL_XDP, name, &entries, sizeof(entries))


cdef int make_sending(Xsk *x, const xdp_mmap_offsets *where) noexcept nogil:
    """0, or -errno."""
    cdef uint32_t i
    cdef int room = SEND_ROOM
    cdef int r = map_ring(x.fd, &x.tx, &where.tx, XSK_SENT_CHUNKS * sizeof(xdp_desc), XDP_PGOFF_TX_RING)
    if r == 0:
        r = map_ring(x.fd, &x.done, &where.cr, XSK_SENT_CHUNKS * sizeof(uint64_t),
                     XDP_UMEM_PGOFF_COMPLETION_RING)
    setsockopt(x.fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room))
    for i in range(XSK_SENT_CHUNKS):
        x.free[i] = <uint64_t>(XSK_CHUNKS + i) * XSK_CHUNK
    x.free_n = XSK_SENT_CHUNKS if r == 0 else 0
    return r


cdef int make_rings(XskSet *s, Xsk *x) noexcept nogil:
    """Memory and rings, all chunks given to the kernel. 0, or -errno."""
    cdef xdp_umem_reg umem
    cdef xdp_mmap_offsets where
    cdef socklen_t n = sizeof(where)
    cdef uint32_t i
    cdef int r
    cdef int protection = PROT_READ | PROT_WRITE
    cdef void *p = mmap(NULL, chunks_of(s) * XSK_CHUNK, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if p == MAP_FAILED:
        return -errno
    x.chunks = <uint8_t *>p
    memset(&umem, 0, sizeof(umem))
    umem.addr, umem.len, umem.chunk_size = <uint64_t>p, chunks_of(s) * XSK_CHUNK, XSK_CHUNK
    if (setsockopt(x.fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) < 0
            or set_ring(x.fd, XDP_UMEM_FILL_RING, XSK_CHUNKS) < 0
            or set_ring(x.fd, XDP_UMEM_COMPLETION_RING, XSK_SENT_CHUNKS if s.sends else COMPLETIONS) < 0
            or (s.sends and set_ring(x.fd, XDP_TX_RING, XSK_SENT_CHUNKS) < 0)
            or set_ring(x.fd, XDP_RX_RING, XSK_CHUNKS) < 0
            or getsockopt(x.fd, SOL_XDP, XDP_MMAP_OFFSETS, &where, &n) < 0):
        return -errno
    r = map_ring(x.fd, &x.fill, &where.fr, XSK_CHUNKS * sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING)
    if r == 0:
        r = map_ring(x.fd, &x.rx, &where.rx, XSK_CHUNKS * sizeof(xdp_desc), XDP_PGOFF_RX_RING)
    if r == 0 and s.sends:
        r = make_sending(x, &where)
    if r < 0:
        return r
    for i in range(XSK_CHUNKS):
        (<uint64_t *>x.fill.entries)[i] = <uint64_t>i * XSK_CHUNK
    x.fill.at = XSK_CHUNKS
    hk_store32(x.fill.producer, x.fill.at)
    return 0


cdef int bind_queue(Xsk *x) noexcept nogil:
    """Without a copy where the driver can, packets of several chunks where the kernel can. 0, or -errno."""
    cdef sockaddr_xdp a
    cdef xdp_options options
    cdef socklen_t n = sizeof(options)
    memset(&a, 0, sizeof(a))
    a.sxdp_family, a.sxdp_ifindex, a.sxdp_queue_id = AF_XDP, x.ifindex, x.queue
    a.sxdp_flags = XDP_USE_NEED_WAKEUP | XDP_USE_SG
    if bind(x.fd, <sockaddr *>&a, sizeof(a)) < 0:
        if errno != EINVAL:
            return -errno
        a.sxdp_flags = XDP_USE_NEED_WAKEUP
        if bind(x.fd, <sockaddr *>&a, sizeof(a)) < 0:
            return -errno
    options.flags = 0
    getsockopt(x.fd, SOL_XDP, XDP_OPTIONS, &options, &n)
    x.copied = options.flags & XDP_OPTIONS_ZEROCOPY == 0
    return 0


cdef bint is_dead(const Xsk *x) noexcept nogil:
    return x.fd >= 0 and recv(x.fd, NULL, 0, MSG_DONTWAIT) < 0 and errno == ENXIO


cdef int xsks_open(XskSet *s, uint32_t ifindex, uint32_t queue) noexcept nogil:
    cdef epoll_event ev
    cdef Xsk *x = NULL
    cdef int i, r
    for i in range(XSK_MOST):
        if is_dead(&s.all[i]):
            xsk_close(s, &s.all[i])
        if s.all[i].fd < 0:
            x = &s.all[i]
    if x == NULL:
        return -ENOBUFS
    x.ifindex, x.queue = ifindex, queue
    x.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)
    if x.fd < 0:
        return -errno
    ev.events, ev.data.u64 = EPOLLIN, 0
    r = make_rings(s, x)
    if r == 0:
        r = bind_queue(x)
    if r == 0 and epoll_ctl(s.epoll, EPOLL_CTL_ADD, x.fd, &ev) < 0:
        r = -errno
    if r < 0:
        xsk_close(s, x)
        return r
    return x.fd


cdef void xsks_drop(XskSet *s, uint32_t ifindex) noexcept nogil:
    cdef int i
    for i in range(XSK_MOST):
        if s.all[i].fd >= 0 and s.all[i].ifindex == ifindex:
            xsk_close(s, &s.all[i])


cdef void xsks_close(XskSet *s) noexcept nogil:
    cdef int i
    if s.epoll < 0:
        return
    for i in range(XSK_MOST):
        xsk_close(s, &s.all[i])
    close(s.epoll)
    s.epoll = -1
    free(s.joined)
    s.joined = NULL


# ---- receive -----------------------------------------------------------------------------------------

cdef void give_back(XskSet *s) noexcept nogil:
    """The chunks of the last batch. The ring has room for all that there are."""
    cdef XskRing *fill
    cdef uint32_t i
    if s.lent == NULL or s.lent_n == 0:
        return
    fill = &s.lent.fill
    for i in range(s.lent_n):
        (<uint64_t *>fill.entries)[fill.at & (XSK_CHUNKS - 1)] = s.lent_chunks[i]
        fill.at += 1
    hk_store32(fill.producer, fill.at)
    if hk_load32(fill.flags) & XDP_RING_NEED_WAKEUP:
        recv(s.lent.fd, NULL, 0, MSG_DONTWAIT)
    s.lent_n = 0


cdef int join(XskSet *s, Xsk *x, const xdp_desc *entries, uint32_t first, uint32_t n,
              uint32_t at) noexcept nogil:
    """A packet of n chunks, in one piece at `at` of `joined`; its size."""
    cdef const xdp_desc *d
    cdef uint32_t i, size = 0
    for i in range(n):
        d = &entries[(first + i) & (XSK_CHUNKS - 1)]
        memcpy(s.joined + at + size, x.chunks + d.addr, d.len)
        size += d.len
    return size


cdef int take(XskSet *s, Xsk *x) noexcept nogil:
    """What one of them has, whole packets of XSK_BATCH chunks at most."""
    cdef const xdp_desc *entries = <const xdp_desc *>x.rx.entries
    cdef const xdp_desc *d
    cdef uint32_t there = hk_load32(x.rx.producer) - x.rx.at
    cdef uint32_t i, first = 0, joined = 0
    cdef int n = 0
    for i in range(min(there, XSK_BATCH)):
        d = &entries[(x.rx.at + i) & (XSK_CHUNKS - 1)]
        s.lent_chunks[i] = d.addr & ~<uint64_t>(XSK_CHUNK - 1)
        if d.options & XDP_PKT_CONTD:
            continue
        if i == first:
            s.packets[n].data, s.packets[n].size = x.chunks + d.addr, d.len
        else:
            s.packets[n].data = s.joined + joined
            s.packets[n].size = join(s, x, entries, x.rx.at + first, i + 1 - first, joined)
            joined += s.packets[n].size
        n += 1
        first = i + 1
    x.rx.at += first
    hk_store32(x.rx.consumer, x.rx.at)
    s.lent, s.lent_n = x, first
    return n


cdef int xsks_receive(XskSet *s) noexcept nogil:
    cdef Xsk *x
    cdef int i, n
    if s.epoll < 0:
        return 0
    give_back(s)
    for i in range(XSK_MOST):
        s.turn = (s.turn + 1) % XSK_MOST
        x = &s.all[s.turn]
        if x.fd >= 0:
            n = take(s, x)
            if n:
                return n
    return 0


# ---- send --------------------------------------------------------------------------------------------

cdef Xsk *xsks_sender(XskSet *s, uint32_t ifindex) noexcept nogil:
    cdef Xsk *best = NULL
    cdef int i
    for i in range(XSK_MOST if s.sends else 0):
        if s.all[i].fd >= 0 and s.all[i].ifindex == ifindex and (best == NULL or s.all[i].queue < best.queue):
            best = &s.all[i]
    return best


cdef void reap(Xsk *x) noexcept nogil:
    """Chunks of what has been sent."""
    cdef const uint64_t *entries = <const uint64_t *>x.done.entries
    cdef uint32_t end = hk_load32(x.done.producer)
    while x.done.at != end:
        x.free[x.free_n] = entries[x.done.at & (XSK_SENT_CHUNKS - 1)]
        x.free_n += 1
        x.done.at += 1
    hk_store32(x.done.consumer, x.done.at)


cdef uint8_t *xsk_chunk(Xsk *x) noexcept nogil:
    if x.free_n == 0:
        reap(x)
        if x.free_n == 0:
            return NULL
    return x.chunks + x.free[x.free_n - 1]


cdef void xsk_give(Xsk *x, uint32_t size) noexcept nogil:
    """The ring has room for all chunks that there are."""
    cdef xdp_desc *d = &(<xdp_desc *>x.tx.entries)[x.tx.at & (XSK_SENT_CHUNKS - 1)]
    x.free_n -= 1
    d.addr, d.len, d.options = x.free[x.free_n], size, 0
    x.tx.at += 1


cdef int xsk_kick(Xsk *x) noexcept nogil:
    """A link that takes nothing now keeps what was given in the ring: the next call asks again. Where the
    kernel copies, it sends only in this call, so many at once, and says EAGAIN while there are more. How far
    it has come is in the ring later on some kernels (6.1): no progress to be seen there means nothing."""
    cdef int calls = 0, most
    hk_store32(x.tx.producer, x.tx.at)
    hk_fence()
    most = <int>((x.tx.at - hk_load32(x.tx.consumer)) // AT_ONCE) + 2
    while calls < most and (x.copied or hk_load32(x.tx.flags) & XDP_RING_NEED_WAKEUP):
        if hk_load32(x.tx.consumer) == x.tx.at:
            break
        calls += 1
        if sendto(x.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 or not x.copied:
            break
        if errno != EAGAIN and errno != EBUSY and errno != ENOBUFS:
            break
    reap(x)
    return calls
