# Positions: 64-bit places in one direction of a connection. 0 is the SYN, 1 the first byte, the FIN has one
# too. A sequence number becomes the position nearest to one that is known, or NOWHERE beyond FAR.

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum:
    FAR = 1 << 30

cdef extern from * nogil:
    """
    #define HK_NOWHERE (~(uint64_t)0)
    """
    const uint64_t NOWHERE "HK_NOWHERE"         # no position


cdef inline uint64_t position_of(uint32_t seq, uint32_t isn, uint64_t near) noexcept nogil:
    """The position of a sequence number, or NOWHERE."""
    cdef int32_t ahead = <int32_t>(seq - isn - <uint32_t>near)
    if ahead > FAR or ahead < -FAR or (ahead < 0 and near < <uint64_t>(-ahead)):
        return NOWHERE
    return near + ahead

cdef inline bint is_far(uint64_t position, uint64_t near) noexcept nogil:
    return position > near + FAR or near > position + FAR

cdef inline bint is_newer(uint32_t ts, uint32_t than) noexcept nogil:
    """Of two timestamps, RFC 7323 4.2."""
    return <int32_t>(ts - than) > 0
