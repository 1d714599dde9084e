# The wire format of docs/vtl.md: numbers, sizes, headers.
# Reading goes through a cursor: one bounds check per fixed part, then loads at known offsets.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.includes.bytes cimport Cursor, load16, load32, load64, store16, store32, store64, take


cdef enum:
    WIRE_VERSION = 2            # the header's upper nibble
    HEADER_SIZE = 20            # of the handshake, and of CLOSE
    DATA_HEADER = 13            # of DATA, and of STATELESS_RESET
    STREAM_HEADER = 9           # without the length
    STREAM_LENGTH = 2
    BLOCK_HEADER = 10           # without the length
    BLOCK_LENGTH = 2
    MESSAGE_HEADER = 2
    PATH_FRAME = 16             # PATH_CHALLENGE, PATH_RESPONSE
    FRAME_PREFIX = 8            # type, flags, 16-bit field, stream id
    ACK_HEADER = 20
    ACK_ECN_COUNTS = 24         # ECT(0), ECT(1), CE
    ACK_RANGE = 8
    REPAIR_HEADER = 24
    ORDER_FRAME = 5
    GO_BACK_FRAME = 32
    HOLE_FRAME = 16
    MAX_HOLE = 0xffff           # bytes that a HOLE tells of
    INIT_FIXED = 48             # INIT body before the version list
    COOKIE_FIXED = 20           # COOKIE body before the version list
    INIT_ACK_FIXED = 28         # INIT_ACK body before the version list
    INIT_ACK_WINDOWS = 8        # where the limits are in it
    INIT_ACK_FUNCTION = 25      # where the reliability function is
    CLOSE_BODY = 4
    INIT_MIN_SIZE = 128         # an INIT is never smaller, so no answer to it is larger than it
    VERSION_ENCRYPTED = 0x100   # of a version: packets are encrypted, with the cipher that its low byte names
    KEY_PHASE = 1               # bit of DATA's first byte, of CLOSE's second
    AMPLIFICATION = 3           # bytes sent to an address that is not proven for one received, RFC 9000 8

cdef enum packet_type:
    PKT_INIT = 1
    PKT_COOKIE = 2
    PKT_INIT_ACK = 3
    PKT_CLOSE = 6
    PKT_DATA = 8                # and 9, the key phase being 1
    PKT_STATELESS_RESET = 10
    PKT_SHORT = 8               # bit of those with the short header

cdef enum frame_type:
    FR_PADDING = 0x00
    FR_PING = 0x01
    FR_ACK = 0x02
    FR_MAX_DATA = 0x03
    FR_PATH_CHALLENGE = 0x04
    FR_PATH_RESPONSE = 0x05
    FR_ACK_ECN = 0x06
    FR_REPAIR = 0x07
    FR_MESSAGE = 0x08
    FR_ORDER = 0x09
    FR_GO_BACK = 0x0a
    FR_HOLE = 0x0b
    FR_OPEN = 0x11              # from here on they name a stream
    FR_OPEN_ACK = 0x12
    FR_OPEN_REJECT = 0x13
    FR_CONFIRM = 0x14
    FR_CANCEL = 0x15
    FR_RESET_STREAM = 0x16
    FR_MAX_STREAM_DATA = 0x17
    FR_STREAM = 0x18            # to 0x1b, by its flags; the last of those that name a stream
    FR_BLOCK = 0x80             # to 0xff, by its flags

cdef enum:
    # frames that elicit no ACK
    ACK_ONLY = (1 << FR_PADDING) | (1 << FR_ACK) | (1 << FR_ACK_ECN) | (1 << FR_GO_BACK)
    PROBING = (1 << FR_PADDING) | (1 << FR_PATH_CHALLENGE) | (1 << FR_PATH_RESPONSE)    # RFC 9000 9.1
    STREAM_FIN = 0x01           # flags of STREAM, in its type
    STREAM_LEN = 0x02           # it has a length; without, it goes to the end of the packet
    BLOCK_LEN = 0x40            # flag of BLOCK, in its type, beside VTL_BLOCK_FLAGS: the same
    OPEN_COMMITTED = 0x01       # flag of OPEN


cdef struct Header:
    uint8_t version
    uint8_t type
    uint64_t dcid
    uint64_t number             # short header: lower half of a packet number; the other types say what it is
    uint8_t phase               # of the keys: DATA, CLOSE
    const uint8_t *start        # the header itself, and its size
    uint8_t size


cdef struct Versions:           # a list as it came: n, 24 bits reserved, and then or later 32·n
    const uint8_t *list
    uint8_t n


cdef struct Init:               # INIT, and the parts of it that INIT_ACK repeats
    uint64_t scid
    uint64_t cookie_cid         # the cookie: the responder's cid, time and MAC; all 0: none
    uint64_t cookie_time
    uint64_t cookie_mac
    uint64_t max_data
    uint64_t max_stream_data
    uint32_t max_ack_delay_us
    uint8_t reliability         # code of a function
    Versions versions


cdef inline bint is_encrypted(uint32_t version) noexcept nogil:
    return version & ~<uint32_t>0xff == VERSION_ENCRYPTED

cdef inline bint read_header(Cursor *c, Header *h) noexcept nogil:
    cdef const uint8_t *p = c.p
    cdef bint is_short = c.n > 0 and p[0] & PKT_SHORT
    h.size = DATA_HEADER if is_short else HEADER_SIZE
    if take(c, h.size) == NULL:
        return False
    h.start = p
    h.version = p[0] >> 4
    h.type = p[0] & 15
    if is_short:
        h.phase = 0
        if h.type == PKT_DATA | KEY_PHASE:
            h.phase = 1
            h.type = PKT_DATA
        h.dcid = load64(p + 1)
        h.number = load32(p + 9)
    else:
        h.phase = p[1] & KEY_PHASE
        h.dcid = load64(p + 4)
        h.number = load64(p + 12)
    return True

cdef inline uint64_t expand(uint32_t low, uint64_t near) noexcept nogil:
    """The number with these lower bits that is nearest to `near`: RFC 9000 A.3."""
    cdef uint64_t x = (near & ~<uint64_t>0xffffffff) | low
    if x + (<uint64_t>1 << 31) < near:
        return x + (<uint64_t>1 << 32)
    if x > near + (<uint64_t>1 << 31) and x >> 32:
        return x - (<uint64_t>1 << 32)
    return x

cdef inline void write_header(uint8_t *p, uint8_t type, uint64_t dcid, uint64_t number) noexcept nogil:
    p[0] = (WIRE_VERSION << 4) | type
    p[1] = 0
    p[2] = 0
    p[3] = 0
    store64(p + 4, dcid)
    store64(p + 12, number)

cdef inline void write_short_header(uint8_t *p, uint8_t type, uint64_t dcid, uint64_t pn) noexcept nogil:
    p[0] = (WIRE_VERSION << 4) | type
    store64(p + 1, dcid)
    store32(p + 9, <uint32_t>pn)

cdef inline void write_prefix(uint8_t *p, uint8_t type, uint8_t flags, uint16_t small,
                              uint32_t id) noexcept nogil:
    p[0] = type
    p[1] = flags
    store16(p + 2, small)
    store32(p + 4, id)

cdef inline uint32_t frame_size(uint8_t type) noexcept nogil:
    """Bytes of a frame's fixed part; 0: no such type."""
    if type & FR_BLOCK:
        return BLOCK_HEADER + (BLOCK_LENGTH if type & BLOCK_LEN else 0)
    if type & ~(STREAM_FIN | STREAM_LEN) == FR_STREAM:
        return STREAM_HEADER + (STREAM_LENGTH if type & STREAM_LEN else 0)
    if (type == FR_CANCEL or type == FR_MAX_STREAM_DATA or type == FR_MAX_DATA
            or type == FR_PATH_CHALLENGE or type == FR_PATH_RESPONSE or type == FR_OPEN_ACK
            or type == FR_HOLE):
        return 16
    if type == FR_ACK or type == FR_RESET_STREAM:
        return 20
    if type == FR_ACK_ECN:
        return ACK_HEADER + ACK_ECN_COUNTS
    if type == FR_OPEN or type == FR_REPAIR:
        return 24
    if type == FR_OPEN_REJECT:
        return 12
    if type == FR_CONFIRM:
        return FRAME_PREFIX
    if type == FR_MESSAGE:
        return MESSAGE_HEADER
    if type == FR_ORDER:
        return ORDER_FRAME
    if type == FR_GO_BACK:
        return GO_BACK_FRAME
    return 1 if type == FR_PADDING or type == FR_PING else 0

cdef inline uint32_t frame_bit(uint8_t type) noexcept nogil:
    """One for each known type, in a set of those seen in a packet; one for all kinds of BLOCK."""
    return <uint32_t>1 << (31 if type & FR_BLOCK else type & 31)


cdef bint read_init(Cursor *c, Init *out) noexcept nogil
cdef void write_init(uint8_t *p, const Init *i) noexcept nogil             # header and fixed part
cdef void write_versions(uint8_t *p, const uint32_t *version, uint32_t n) noexcept nogil
cdef bint take_versions(Cursor *c, uint8_t n, Versions *out) noexcept nogil  # False: there are fewer
# the first of ours that the other side speaks; 0: none
cdef uint32_t choose_version(const uint32_t *ours, uint32_t n, const Versions *theirs) noexcept nogil
cdef bint any_encrypted(const Versions *v) noexcept nogil
# the first of theirs that we speak; 0: none
cdef uint32_t accept_version(const Versions *theirs, const uint32_t *ours, uint32_t n) noexcept nogil
