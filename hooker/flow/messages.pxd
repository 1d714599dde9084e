# The messages of docs/flow.md, 4: one prefix of 16 bytes, then what the type adds. Numbers in network byte order.
# Reading checks the size once, then loads at known offsets; nothing is allocated, DATA's bytes are not copied.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    FLOW_VERSION = 1
    PREFIX_SIZE = 16
    PROOF_SIZE = 16
    CRC_SIZE = 4
    HELLO_FIXED = 32
    OPEN_SIZE = 40
    ENGAGED_SIZE = 20
    ACKED_FIXED = 24
    STAMPS_SIZE = 8             # TSval, TSecr
    BLOCK_SIZE = 8              # one SACK block
    MAX_BLOCKS = 4
    MAX_OPTIONS = 60            # bytes of HELLO's options
    MAX_CONTROL = 96            # bytes of any message but DATA, its checksum included
    MAX_HEADER = 24             # DATA's bytes before the payload

cdef enum message_type:
    MSG_HELLO = 0x01
    MSG_PING = 0x02
    MSG_PONG = 0x03
    MSG_OPEN = 0x10
    MSG_ACCEPT = 0x11
    MSG_REJECT = 0x12
    MSG_ENGAGED = 0x13
    MSG_DATA = 0x14
    MSG_ACKED = 0x15
    MSG_PROBE = 0x16
    MSG_REFUSED = 0x17
    MSG_RESET = 0x18
    MSG_LEAVE = 0x19
    MSG_TYPES = 0x1a

cdef enum message_flag:
    FLAG_STAMPS = 0x80          # DATA, ACKED, ENGAGED: timestamps are there
    DATA_FIN = 0x01             # behind the last byte
    DATA_PSH = 0x02
    DATA_URG = 0x04             # the urgent pointer is behind the last byte
    DATA_OPENERS = 0x20         # the token is the sender's: the receiver has not said its own yet
    OPEN_EARLY = 0x01           # the opener's socket is marked, and its payload goes as DATA
    ENGAGED_FINAL = 0x01        # nothing above the position goes onto the wire in this epoch
    ENGAGED_KNOWN = 0x02        # the receiver's own final position has arrived: no answer is needed
    TRAIL = 0x04                # OPEN, ACCEPT, ENGAGED: the sender shows the wire where it stands; the receiver does, too
    LEAVE_QUOTES = 0x01         # the token is the one of the message this answers: its receiver chose none

cdef enum message_error:
    MESSAGE_FINE = 0
    MESSAGE_SHORT = -1          # shorter than its type, or than its own count says
    MESSAGE_LONG = -2           # bytes behind the end
    MESSAGE_TYPE = -3
    MESSAGE_CHECKSUM = -4
    MESSAGE_OPTIONS = -5        # HELLO's options do not fill their bytes, or are too many


cdef struct Message:            # 104 bytes; what a type does not have is 0
    uint8_t type
    uint8_t flags
    uint8_t epoch               # HELLO: version
    uint8_t blocks              # ACKED: SACK blocks
    uint32_t position           # see docs/flow.md, 4: of HELLO the largest message, of REJECT and LEAVE the reason
    uint64_t token              # the receiver's; OPEN: locator; HELLO: engine instance
    uint64_t own_token          # OPEN, ACCEPT: the sender's; HELLO: random
    uint8_t proof[PROOF_SIZE]   # OPEN, ACCEPT
    uint32_t edge               # ACKED: first position beyond the window; HELLO: transports
    uint16_t serial             # ACKED
    uint8_t duplicates          # ACKED
    uint32_t tsval
    uint32_t tsecr
    uint32_t sack[2 * MAX_BLOCKS]
    const uint8_t *data         # DATA: payload, HELLO: options; borrowed from the bytes read
    uint32_t data_n
    uint16_t segment            # DATA: bytes of the local TCP's segments, of which it is several; 0: one. Not sent


cdef uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t n) noexcept nogil       # RFC 3720 B.4; begins with 0
# Writes all but DATA's payload and the checksum; the bytes written, at most MAX_CONTROL. The values must be in range.
cdef uint32_t write_message(uint8_t *p, const Message *m) noexcept nogil
cdef uint32_t sign_message(uint8_t *p, uint32_t n) noexcept nogil      # puts the checksum behind n bytes; n + 4
cdef message_error read_message(const uint8_t *p, size_t n, bint checked, Message *m) noexcept nogil
cdef bytes message_bytes(const Message *m, bint checked)
