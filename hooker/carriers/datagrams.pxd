# What carriers of datagrams have in common: one socket for each family, and batches out and in.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.carriers.contract cimport Carrier, CarrierOps, Datagram
from hooker.includes.linux cimport iovec, mmsghdr, sockaddr_storage
from hooker.vtl.api cimport vtl_batch

cdef enum:
    FAMILIES = 2                 # IPv4, IPv6
    RX_BUFFERS = 32              # datagram trains of one recvmmsg
    RX_SIZE = 65536              # bytes: the largest train GRO makes
    TX_TRAINS = 64               # of one sendmmsg
    TX_PARTS = 4096 + TX_TRAINS  # MOST_PARTS, and a checksum each
    CMSG_ROOM = 96
    TRAILER = 4                  # bytes: CRC32C of a datagram, behind it

# A socket of a family that is bound, or -errno.
ctypedef int (*open_one)(Carrier *c, int family, uint16_t port) noexcept nogil

cdef struct Sockets:
    Carrier base
    open_one one
    int fd[FAMILIES]
    bint headers                 # what comes by IPv4 begins with its header
    bint blocked                 # the last send found the socket full
    uint8_t *rx_memory
    mmsghdr rx[RX_BUFFERS]
    iovec rx_iov[RX_BUFFERS]
    sockaddr_storage rx_from[RX_BUFFERS]
    uint8_t rx_control[RX_BUFFERS * CMSG_ROOM]
    mmsghdr tx[TX_TRAINS]
    sockaddr_storage tx_to[TX_TRAINS]
    uint8_t tx_alone[TX_TRAINS]
    uint32_t queue_full          # sends in a row that found the link's queue full
    uint8_t tx_control[TX_TRAINS * CMSG_ROOM]
    iovec *tx_parts              # NULL: datagrams have no checksum of ours
    uint32_t tx_part
    uint32_t tx_sums[TX_TRAINS]

# `size` bytes, zeroed behind what all have; `header`: bytes of the protocol's own. NULL: no memory.
cdef Sockets *sockets_new(const CarrierOps *ops, open_one one, uint32_t properties, uint32_t header,
                          size_t size) noexcept nogil
cdef void sockets_ops(CarrierOps *ops) noexcept nogil                           # all of the contract's
cdef int open_socket(int kind, int protocol, int family) noexcept nogil         # or -errno
cdef int bind_socket(int fd, int family, uint16_t port) noexcept nogil        # fd, or -errno: closed

# Of these, what a carrier with more to open has to call, too.
cdef int sockets_open(Carrier *c, uint16_t port, uint16_t *bound) noexcept nogil
cdef void sockets_close(Carrier *c) noexcept nogil
cdef void sockets_free(Carrier *c) noexcept nogil
cdef uint32_t sockets_send(Carrier *c, vtl_batch *b, uint32_t first) noexcept nogil
cdef int sockets_receive(Carrier *c, int which) noexcept nogil
cdef bint sockets_split(Carrier *c, int train, uint32_t *offset, Datagram *out) noexcept nogil
cdef bint is_whole(uint8_t *data, uint32_t *size) noexcept nogil    # its checksum is right; size without it
