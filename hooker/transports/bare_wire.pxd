# Datagrams of the bare transports (docs/transports.md, "One segment a datagram"). Numbers are in network byte
# order.
#
# All begin with 64 bits: the token that their receiver has chosen for the association, and messages follow;
# or 0, and one of these follows:
#
#     magic "HkB" and version (32)   kind (8)   reserved (24)
#     token (64)                     of the side that has begun; UNKNOWN: of what it answers
#     instance (64)                  the sender's
#     time (32)   reserved (32)      COOKIE, and ASK with one
#     cookie (64)                    the same, 0: none; WELCOME: the token of the side that answers
#     zeros                          ASK with a cookie and WELCOME have the size that each path has to carry
#
# Between messages of the flow protocol there may be REACH and REACHED (type, flags, size of the datagram that
# a REACH is in, number), END (8 bytes), and zeros, which reach to the end of the datagram, as DATA does.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from hooker.flow.messages cimport (
    ACKED_FIXED, BLOCK_SIZE, ENGAGED_SIZE, FLAG_STAMPS, HELLO_FIXED, MSG_ACCEPT, MSG_ACKED, MSG_DATA,
    MSG_ENGAGED, MSG_HELLO, MSG_OPEN, OPEN_SIZE, PREFIX_SIZE, STAMPS_SIZE,
)
from hooker.includes.bytes cimport load16, load32, load64, store16, store32, store64

cdef enum:
    TOKEN_SIZE = 8
    MAGIC = 0x486b4201         # "HkB", 1
    SHAKE_SIZE = 48
    UNKNOWN_SIZE = 24          # what is shorter is not answered: no answer is larger than its question
    OWN_SIZE = 8               # REACH, REACHED, END

cdef enum shake_kind:
    SHAKE_ASK = 1              # without a cookie, then with one
    SHAKE_COOKIE               # what a stranger has to bring back
    SHAKE_WELCOME
    SHAKE_UNKNOWN              # nobody here has chosen this token

cdef enum own_type:            # beside the flow protocol's
    OWN_ZERO = 0
    OWN_REACH = 0x70
    OWN_REACHED = 0x71
    OWN_END = 0x72

cdef enum own_flag:
    OWN_GREETED = 1            # the receiver's HELLO has come

cdef struct Shake:
    uint8_t kind
    uint64_t token
    uint64_t instance
    uint32_t time              # s
    uint64_t cookie

cdef struct Own:
    uint8_t type
    uint8_t flags
    uint16_t size
    uint32_t number


cdef inline uint32_t write_shake(uint8_t *p, const Shake *s) noexcept nogil:
    """Bytes written, SHAKE_SIZE at most."""
    memset(p, 0, SHAKE_SIZE)
    store32(p + 8, MAGIC)
    p[12] = s.kind
    store64(p + 16, s.token)
    if s.kind == SHAKE_UNKNOWN:
        return UNKNOWN_SIZE
    store64(p + 24, s.instance)
    store32(p + 32, s.time)
    store64(p + 40, s.cookie)
    return SHAKE_SIZE

cdef inline bint read_shake(const uint8_t *p, uint32_t n, Shake *s) noexcept nogil:
    """Of a datagram that begins with 0. False: it is none."""
    memset(s, 0, sizeof(Shake))
    if n < UNKNOWN_SIZE or load32(p + 8) != MAGIC:
        return False
    s.kind, s.token = p[12], load64(p + 16)
    if s.kind == SHAKE_UNKNOWN:
        return n == UNKNOWN_SIZE
    if n < SHAKE_SIZE or not SHAKE_ASK <= s.kind <= SHAKE_WELCOME or s.token == 0:
        return False
    s.instance, s.time, s.cookie = load64(p + 24), load32(p + 32), load64(p + 40)
    return n == SHAKE_SIZE or (s.cookie != 0 and s.kind != SHAKE_COOKIE)

cdef inline uint32_t write_own(uint8_t *p, const Own *m) noexcept nogil:
    p[0] = m.type
    p[1] = m.flags
    store16(p + 2, m.size)
    store32(p + 4, m.number)
    return OWN_SIZE

cdef inline void read_own(const uint8_t *p, Own *m) noexcept nogil:
    m.type, m.flags, m.size, m.number = p[0], p[1], load16(p + 2), load32(p + 4)

cdef inline uint32_t message_size(const uint8_t *p, uint32_t n) noexcept nogil:
    """Of the message of the flow protocol that begins there, as its first bytes say; DATA: all n. 0: none."""
    if n < PREFIX_SIZE:
        return 0
    if p[0] == MSG_DATA:
        return n
    if p[0] == MSG_ACKED:
        return ACKED_FIXED + (STAMPS_SIZE if p[1] & FLAG_STAMPS else 0) + BLOCK_SIZE * <uint32_t>p[3]
    if p[0] == MSG_OPEN or p[0] == MSG_ACCEPT:
        return OPEN_SIZE
    if p[0] == MSG_HELLO:
        return HELLO_FIXED + p[3]
    return ENGAGED_SIZE if p[0] == MSG_ENGAGED else PREFIX_SIZE
