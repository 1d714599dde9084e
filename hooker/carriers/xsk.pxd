# AF_XDP sockets of a carrier: one for each queue of each interface whose packets an XDP program leads here.
# By the first one of an interface it may send, too.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    XSK_MOST = 16              # sockets
    XSK_CHUNK = 2048           # bytes: what a packet has, as long as it has no more
    XSK_CHUNKS = 8192          # of one socket
    XSK_BATCH = 64             # chunks
    XSK_SENT_CHUNKS = 2048     # more of one that sends

cdef struct XskRing:
    uint32_t *producer
    uint32_t *consumer
    uint32_t *flags
    void *entries
    uint32_t at                # our own end of it
    void *memory
    size_t size

cdef struct Xsk:
    int fd                     # -1: none
    uint32_t ifindex, queue
    bint copied                # the driver does not write into the chunks, the kernel copies
    uint8_t *chunks
    XskRing fill, rx
    XskRing tx, done           # of one that sends
    uint64_t free[XSK_SENT_CHUNKS]   # chunks
    uint32_t free_n

cdef struct XskPacket:
    const uint8_t *data        # from the Ethernet header on
    uint32_t size

cdef struct XskSet:
    int epoll                  # -1: not open
    bint sends
    Xsk all[XSK_MOST]
    uint32_t turn
    Xsk *lent                  # whose chunks the last batch lies in
    uint64_t lent_chunks[XSK_BATCH]
    uint32_t lent_n
    XskPacket packets[XSK_BATCH]
    uint8_t *joined            # packets of several chunks

cdef int xsks_init(XskSet *s) noexcept nogil            # 0, or -errno
cdef void xsks_close(XskSet *s) noexcept nogil          # also of what is closed
# Its descriptor, or -errno. In a thread that has the interface's network namespace.
cdef int xsks_open(XskSet *s, uint32_t ifindex, uint32_t queue) noexcept nogil
cdef void xsks_drop(XskSet *s, uint32_t ifindex) noexcept nogil     # all of that interface
# To send by; NULL: none of this interface.
cdef Xsk *xsks_sender(XskSet *s, uint32_t ifindex) noexcept nogil
# Where the next packet is to be written, XSK_CHUNK bytes; NULL: all chunks are under way. Then it is given.
cdef uint8_t *xsk_chunk(Xsk *x) noexcept nogil
cdef void xsk_give(Xsk *x, uint32_t size) noexcept nogil
cdef int xsk_kick(Xsk *x) noexcept nogil                # what was given leaves: system calls that it took
# How many packets are in `packets`, where they stay until the next call.
cdef int xsks_receive(XskSet *s) noexcept nogil
