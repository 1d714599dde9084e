"""One queue of a TUN device. ``Queue`` is its face for Python: whole packets, ``virtio_net_hdr`` in front."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from hooker.includes.linux cimport EAGAIN, EINTR, errno, iovec, read, write
from hooker.tcp.twin cimport twin_segment

import os

cdef extern from "<sys/uio.h>" nogil:
    ssize_t writev(int fd, const iovec *v, int n)

cdef enum:
    BATCH = 64                  # packets read for one call from Python

QUEUE_LENGTH = QUEUE


cdef int tun_read(int fd, uint8_t *slots, uint32_t *sizes, int room, tun_counters *c) noexcept nogil:
    cdef int n = 0
    cdef ssize_t size
    while n < room:
        size = read(fd, slots + <size_t>n * SLOT, SLOT)
        if size < 0:
            if errno == EINTR:
                continue
            return -errno if errno != EAGAIN and n == 0 else n
        sizes[n] = <uint32_t>size
        c.read_packets += 1
        c.read_bytes += <unsigned long long>size
        n += 1
    return n


cdef bint tun_put(int fd, const uint8_t *packet, size_t size, tun_counters *c) noexcept nogil:
    return note_written(c, write_whole(fd, packet, size))


cdef bint tun_write(int fd, const twin_segment *s, tun_counters *c) noexcept nogil:
    cdef iovec v[2]
    if s.length == 0:
        return tun_put(fd, s.head, s.header, c)
    v[0].iov_base, v[0].iov_len = <void *>s.head, s.header
    v[1].iov_base, v[1].iov_len = <void *>s.data, s.length
    return tun_gather(fd, v, 2, c)


cdef bint tun_gather(int fd, const iovec *v, int parts, tun_counters *c) noexcept nogil:
    cdef ssize_t n
    while True:
        n = writev(fd, v, parts)
        if n >= 0 or errno != EINTR:
            return note_written(c, n)


cdef inline ssize_t write_whole(int fd, const uint8_t *packet, size_t size) noexcept nogil:
    cdef ssize_t n
    while True:
        n = write(fd, packet, size)
        if n >= 0 or errno != EINTR:
            return n


cdef inline bint note_written(tun_counters *c, ssize_t n) noexcept nogil:
    if n < 0:
        c.dropped += 1
        return False
    c.written_packets += 1
    c.written_bytes += <unsigned long long>n
    return True


cdef class Queue:
    """Packets of one descriptor of a ``Device``, which stays its owner."""

    cdef readonly int descriptor
    cdef uint8_t *slots
    cdef tun_counters c

    def __cinit__(self, int descriptor):
        self.descriptor = descriptor
        self.slots = <uint8_t *>malloc(<size_t>BATCH * SLOT)
        if self.slots == NULL:
            raise MemoryError("no memory for packets")

    def __dealloc__(self):
        free(self.slots)

    def read(self):
        """The packets that wait, at most 64. Raises OSError when the device is gone."""
        cdef uint32_t sizes[BATCH]
        cdef int n, i
        with nogil:
            n = tun_read(self.descriptor, self.slots, sizes, BATCH, &self.c)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        return [(<const char *>self.slots + <size_t>i * SLOT)[:sizes[i]] for i in range(n)]

    def write(self, bytes packet not None):
        """False: the kernel did not take it."""
        cdef ssize_t n
        cdef int error = 0
        cdef const char *p = PyBytes_AS_STRING(packet)
        cdef size_t size = PyBytes_GET_SIZE(packet)
        with nogil:
            n = write(self.descriptor, p, size)
        if n < 0:
            self.c.dropped += 1
            return False
        self.c.written_packets += 1
        self.c.written_bytes += <unsigned long long>n
        return True

    @property
    def counters(self):
        """Packets and bytes read and written, and those that the kernel did not take."""
        return {
            "read_packets": self.c.read_packets, "read_bytes": self.c.read_bytes,
            "written_packets": self.c.written_packets, "written_bytes": self.c.written_bytes,
            "dropped": self.c.dropped,
        }
