# Datagrams: whose they are, and what becomes of those that are nobody's. See quic_doors.pyx.

from hooker.carriers.contract cimport Datagram, PathError
from hooker.includes.bucket cimport Bucket
from hooker.transports.quic_core cimport QuicTransport

cdef struct QuicDoors:         # the transport, and what bounds the work for datagrams that are nobody's
    QuicTransport t
    Bucket answers
    Bucket looks

cdef void datagram_in(QuicTransport *t, const Datagram *d) noexcept nogil
cdef void path_error(QuicTransport *t, const PathError *e, int error) noexcept nogil
