# Reading and writing packets of a TUN device: one system call each, as the kernel has it; many for each call.

from libc.stdint cimport uint8_t, uint32_t
from hooker.includes.linux cimport iovec
from hooker.tcp.twin cimport twin_segment

cdef enum:
    # Packets that wait to be read. One that finds no room is an error to its TCP, which then does not wait
    # for an acknowledgement, but tries again each 0.5 s, and gives up after tcp_retries2 tries: 7.5 s. So
    # there is room for a packet of each of very many flows. The memory is their sockets' own.
    QUEUE = 65536
    PACED = 4000                # that we draw ourselves at most before we read
    SLOT = 65792                # bytes of a packet and its offload header at most, a multiple of a cache line

cdef struct tun_counters:
    unsigned long long read_packets
    unsigned long long read_bytes
    unsigned long long written_packets
    unsigned long long written_bytes
    unsigned long long dropped  # by the kernel: no memory, or the device is down

# Reads what waits, at most `room` packets, each into a slot of its own. -errno when the device is gone.
cdef int tun_read(int fd, uint8_t *slots, uint32_t *sizes, int room, tun_counters *c) noexcept nogil
# False: not taken. TCP repairs it. A packet in one piece, or in parts: small ones are cheaper in one.
cdef bint tun_put(int fd, const uint8_t *packet, size_t size, tun_counters *c) noexcept nogil
cdef bint tun_gather(int fd, const iovec *v, int parts, tun_counters *c) noexcept nogil
cdef bint tun_write(int fd, const twin_segment *s, tun_counters *c) noexcept nogil
