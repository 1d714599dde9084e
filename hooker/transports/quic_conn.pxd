# One QUIC connection: it begins, reads, writes and says goodbye. See quic_conn.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from hooker.carriers.contract cimport Datagram
from hooker.includes.linux cimport sockaddr_storage
from hooker.includes.ngtcp2 cimport ngtcp2_cid, ngtcp2_path, ngtcp2_pkt_hd
from hooker.transports.quic_core cimport QuicAssociation, QuicTransport
from hooker.vtl.api cimport vtl_addr

cdef struct Ends:              # of a datagram, as the library wants them
    ngtcp2_path path
    sockaddr_storage local
    sockaddr_storage remote

cdef void fill_ends(Ends *e, const vtl_addr *remote) noexcept nogil
cdef void name_cid(uint32_t slot, uint16_t mark, ngtcp2_cid *out) noexcept nogil
cdef void reset_token(const QuicTransport *t, const vtl_addr *where, const ngtcp2_cid *cid,
                      uint8_t *out) noexcept nogil
# False: no memory; the association is to be freed.
cdef bint conn_begin(QuicAssociation *a) noexcept nogil
# By an Initial; `first`: the connection id that its sender chose, before a Retry if there was one.
cdef bint conn_answer(QuicAssociation *a, const ngtcp2_pkt_hd *hd, const ngtcp2_cid *first,
                      bint retried) noexcept nogil
cdef void conn_read(QuicAssociation *a, const Datagram *d) noexcept nogil
cdef void settle(QuicTransport *t) noexcept nogil       # what was handed on of streams need not stay any more
cdef void conn_write(QuicAssociation *a) noexcept nogil  # what it has to send now, a bounded part of it
cdef void conn_farewell(QuicAssociation *a) noexcept nogil
cdef void conn_expired(QuicAssociation *a) noexcept nogil
cdef uint8_t *datagram_room(QuicTransport *t) noexcept nogil    # TX_SIZE bytes; NULL: the socket is full
cdef void datagram_add(QuicTransport *t, const vtl_addr *to, size_t n, uint8_t ecn, bint alone) noexcept nogil
cdef bint datagrams_out(QuicTransport *t) noexcept nogil        # False: the socket is full
