"""A carrier without a transport, for tests and for who writes one.

Addresses are of 16 bytes, IPv4 as ::ffff:a.b.c.d.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from hooker.carriers.contract cimport *
from hooker.includes.linux cimport EMSGSIZE, EOPNOTSUPP, iovec
from hooker.vtl.api cimport vtl_batch, vtl_datagram

import os

cdef enum:
    DATAGRAMS = 512            # of one batch
    BATCHES = 64               # received at once


cdef class Lone:
    """`handle`: of a carrier's make(); it is used up. `port` 0: any. Raises OSError."""

    cdef Carrier *c
    cdef readonly uint16_t port

    def __cinit__(self, CarrierHandle handle not None, uint16_t port=0):
        cdef int r
        if handle.used:
            raise ValueError("a carrier goes to one")
        self.c, handle.used = handle.c, True
        r = self.c.ops.open(self.c, port, &self.port)
        if r < 0:
            raise OSError(-r, os.strerror(-r))

    def __dealloc__(self):
        if self.c != NULL:
            self.c.ops.free(self.c)

    def close(self):
        self.c.ops.close(self.c)

    @property
    def overhead(self):
        return self.c.overhead

    @property
    def properties(self):
        return self.c.properties

    def descriptors(self):
        return [self.c.ops.descriptor(self.c, which) for which in range(C_DESCRIPTORS)]

    def attach(self, uint32_t ifindex, uint32_t queue=0):
        """Receives what an XDP program leads here of it, too; a descriptor for its map. Raises OSError."""
        cdef int r = self.c.ops.attach(self.c, ifindex, queue) if self.c.ops.attach != NULL else -EOPNOTSUPP
        if r < 0:
            raise OSError(-r, os.strerror(-r))
        return r

    def send(self, list datagrams not None, uint8_t ecn=0, uint32_t parts=1, bytes local=bytes(16),
             bint unproven=False):
        """A batch of (address, port, bytes), each cut into so many parts, from `local`; how many went.

        `unproven`: they answer whoever it was."""
        cdef iovec iov[MOST_PARTS]
        cdef vtl_datagram d[DATAGRAMS]
        cdef vtl_batch b
        cdef const uint8_t *p
        cdef uint32_t i, k, at
        cdef bytes address, data
        if len(datagrams) > DATAGRAMS or len(datagrams) * parts > MOST_PARTS:
            raise ValueError("too many for a batch")
        memset(&b, 0, sizeof(b))
        b.iov, b.dgram = iov, d
        for i, (address, port, data) in enumerate(datagrams):
            memset(&d[i], 0, sizeof(vtl_datagram))
            memcpy(d[i].to.ip, <const char *>address, 16)
            memcpy(d[i].to.local, <const char *>local, 16)
            d[i].to.port = port
            d[i].first, d[i].count, d[i].size, d[i].ecn = b.iov_len, parts, <uint32_t>len(data), ecn
            d[i].unproven = unproven
            p = <const uint8_t *><const char *>data
            at = 0
            for k in range(parts):
                iov[b.iov_len].iov_base = <void *>(p + at)
                iov[b.iov_len].iov_len = d[i].size // parts if k + 1 < parts else d[i].size - at
                at += <uint32_t>iov[b.iov_len].iov_len
                b.iov_len += 1
            b.dgram_len += 1
        with nogil:
            i = self.c.ops.send(self.c, &b, 0)
        return i

    def receive(self):
        """What has come: (address, which of ours, port, ECN bits, bytes)."""
        cdef Datagram d
        cdef uint32_t offset
        cdef int which, i, k, n
        cdef list out = []
        for which in range(C_DESCRIPTORS):
            for k in range(BATCHES if self.c.ops.descriptor(self.c, which) >= 0 else 0):
                n = self.c.ops.receive(self.c, which)
                if n <= 0:
                    break
                for i in range(n):
                    offset = 0
                    while self.c.ops.split(self.c, i, &offset, &d):
                        address, local = d.source.ip[:16], d.source.local[:16]
                        out.append((address, local, d.source.port, d.ecn, d.data[:d.size]))
        return out

    def errors(self):
        """ICMP errors: (errno, address, port, bytes of the datagram they quote)."""
        cdef PathError e
        cdef int which, k, err
        cdef list out = []
        for which in range(C_DESCRIPTORS):
            for k in range(BATCHES if self.c.ops.descriptor(self.c, which) >= 0 else 0):
                err = self.c.ops.error(self.c, which, &e)
                if err == 0:
                    break
                if err != EMSGSIZE:
                    out.append((err, e.to.ip[:16], e.to.port, e.quoted[:e.size]))
        return out

    def left(self):
        """How what was sent has left, by what C_WAYS names."""
        cdef int way
        return [self.c.left[way] for way in range(<int>C_WAYS)]

    def counters(self):
        return {"sent": self.c.sent, "received": self.c.received, "damaged": self.c.damaged,
                "send_errors": self.c.send_errors, "refused": self.c.refused, "trains": int(self.c.trains)}
