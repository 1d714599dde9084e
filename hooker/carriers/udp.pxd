from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.includes.linux cimport iovec, mmsghdr, sockaddr_storage
from hooker.vtl.api cimport vtl_addr, vtl_batch

cdef enum:
    RX_BUFFERS = 32              # datagram trains of one recvmmsg
    RX_SIZE = 65536              # bytes: the largest train GRO makes
    TX_TRAINS = 64               # of one sendmmsg
    CMSG_ROOM = 96

cdef struct udp_carrier:
    int fd[2]                    # IPv4, IPv6
    bint gso                     # off after a send that the path could not segment
    bint blocked                 # the last udp_send found the socket full
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
    uint64_t send_calls, recv_calls, datagrams_sent, datagrams_received, send_errors

cdef struct udp_datagram:        # one datagram of a received batch
    uint8_t *data
    uint32_t size
    uint32_t segment             # of the train; 0: it is one datagram
    uint8_t ecn                  # the two bits of the IP header, equal in a train
    vtl_addr source

cdef struct udp_icmp:            # an ICMP error
    vtl_addr to                  # whom it is about
    uint32_t size                # bytes of the datagram it quotes, as far as they matter
    uint8_t quoted[64]

cdef int udp_open(udp_carrier *c, uint16_t port, uint16_t *bound) noexcept nogil         # 0, or -errno
cdef void udp_close(udp_carrier *c) noexcept nogil
cdef int udp_receive(udp_carrier *c, int which) noexcept nogil                           # trains, 0: none, -errno
cdef int udp_split(udp_carrier *c, int train, uint32_t *offset, udp_datagram *out) noexcept nogil   # 1, or 0 at the end
cdef uint32_t udp_send(udp_carrier *c, vtl_batch *b, uint32_t first) noexcept nogil      # index of the first datagram not sent
cdef int udp_error(udp_carrier *c, int which, udp_icmp *out) noexcept nogil              # errno of an ICMP error; EMSGSIZE: nothing new; 0: none
