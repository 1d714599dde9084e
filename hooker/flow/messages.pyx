"""Messages of the flow protocol (docs/flow.md, 4), read and written."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.includes.bytes cimport Cursor, load16, load32, load64, store16, store32, store64, take

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    static uint32_t hk_crc_table[256];
    static int hk_crc_fast;

    static void hk_crc_setup(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++)
                c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;      /* the polynomial, reflected */
            hk_crc_table[i] = c;
        }
    #if defined(__x86_64__)
        __builtin_cpu_init();
        hk_crc_fast = __builtin_cpu_supports("sse4.2");
    #endif
    }

    #if defined(__x86_64__)
    __attribute__((target("sse4.2")))
    static uint32_t hk_crc_hardware(uint32_t crc, const uint8_t *p, size_t n) {
        uint64_t c = crc, v;
        for (; n >= 8; n -= 8, p += 8) {
            memcpy(&v, p, 8);
            c = __builtin_ia32_crc32di(c, v);
        }
        while (n--)
            c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
        return (uint32_t)c;
    }
    #else
    #define hk_crc_hardware hk_crc_software
    #endif

    static uint32_t hk_crc_software(uint32_t crc, const uint8_t *p, size_t n) {
        while (n--)
            crc = crc >> 8 ^ hk_crc_table[(crc ^ *p++) & 255];
        return crc;
    }
    """
    bint hk_crc_fast
    void hk_crc_setup()
    uint32_t hk_crc_hardware(uint32_t crc, const uint8_t *p, size_t n)
    uint32_t hk_crc_software(uint32_t crc, const uint8_t *p, size_t n)

hk_crc_setup()


cdef uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t n) noexcept nogil:
    return ~(hk_crc_hardware(~crc, p, n) if hk_crc_fast else hk_crc_software(~crc, p, n))


cdef inline uint32_t write_stamps(uint8_t *p, const Message *m) noexcept nogil:
    if not m.flags & FLAG_STAMPS:
        return 0
    store32(p, m.tsval)
    store32(p + 4, m.tsecr)
    return STAMPS_SIZE


cdef uint32_t write_hello(uint8_t *p, const Message *m) noexcept nogil:
    p[3] = <uint8_t>m.data_n
    store64(p + 16, m.own_token)
    store32(p + 24, m.edge)
    store32(p + 28, 0)
    if m.data_n > 0:
        memcpy(p + HELLO_FIXED, m.data, m.data_n)
    return HELLO_FIXED + m.data_n


cdef uint32_t write_acked(uint8_t *p, const Message *m) noexcept nogil:
    cdef uint32_t i, n
    p[3] = m.blocks
    store32(p + 16, m.edge)
    store16(p + 20, m.serial)
    p[22] = m.duplicates
    p[23] = 0
    n = ACKED_FIXED + write_stamps(p + ACKED_FIXED, m)
    for i in range(2 * <uint32_t>m.blocks):
        store32(p + n, m.sack[i])
        n += 4
    return n


cdef uint32_t write_message(uint8_t *p, const Message *m) noexcept nogil:
    p[0] = m.type
    p[1] = m.flags
    p[2] = m.epoch
    p[3] = 0
    store32(p + 4, m.position)
    store64(p + 8, m.token)
    if m.type == MSG_DATA:
        return PREFIX_SIZE + write_stamps(p + PREFIX_SIZE, m)
    if m.type == MSG_ACKED:
        return write_acked(p, m)
    if m.type == MSG_ENGAGED:
        store32(p + 16, m.tsval)
        return ENGAGED_SIZE
    if m.type == MSG_OPEN or m.type == MSG_ACCEPT:
        store64(p + 16, m.own_token)
        memcpy(p + 24, m.proof, PROOF_SIZE)
        return OPEN_SIZE
    if m.type == MSG_HELLO:
        return write_hello(p, m)
    return PREFIX_SIZE


cdef uint32_t sign_message(uint8_t *p, uint32_t n) noexcept nogil:
    store32(p + n, crc32c(0, p, n))
    return n + CRC_SIZE


cdef inline bint read_stamps(Cursor *c, Message *m) noexcept nogil:
    cdef const uint8_t *p
    if not m.flags & FLAG_STAMPS:
        return True
    p = take(c, STAMPS_SIZE)
    if p == NULL:
        return False
    m.tsval = load32(p)
    m.tsecr = load32(p + 4)
    return True


cdef message_error read_hello(Cursor *c, uint32_t options, Message *m) noexcept nogil:
    cdef const uint8_t *p = take(c, HELLO_FIXED - PREFIX_SIZE)
    cdef uint32_t at = 0
    if p == NULL:
        return MESSAGE_SHORT
    m.own_token = load64(p)
    m.edge = load32(p + 8)
    m.data = take(c, options)
    if m.data == NULL:
        return MESSAGE_SHORT
    m.data_n = options
    while at + 2 <= options:
        at += 2 + m.data[at + 1]
    return MESSAGE_FINE if at == options and options <= MAX_OPTIONS else MESSAGE_OPTIONS


cdef message_error read_acked(Cursor *c, uint8_t blocks, Message *m) noexcept nogil:
    cdef const uint8_t *p = take(c, ACKED_FIXED - PREFIX_SIZE)
    cdef uint32_t i
    if p == NULL:
        return MESSAGE_SHORT
    if blocks > MAX_BLOCKS:
        return MESSAGE_LONG
    m.edge = load32(p)
    m.serial = load16(p + 4)
    m.duplicates = p[6]
    m.blocks = blocks
    if not read_stamps(c, m):
        return MESSAGE_SHORT
    p = take(c, BLOCK_SIZE * <size_t>blocks)
    if p == NULL:
        return MESSAGE_SHORT
    for i in range(2 * <uint32_t>blocks):
        m.sack[i] = load32(p + 4 * i)
    return MESSAGE_FINE


cdef message_error read_open(Cursor *c, Message *m) noexcept nogil:
    cdef const uint8_t *p = take(c, OPEN_SIZE - PREFIX_SIZE)
    if p == NULL:
        return MESSAGE_SHORT
    m.own_token = load64(p)
    memcpy(m.proof, p + 8, PROOF_SIZE)
    return MESSAGE_FINE


cdef message_error read_data(Cursor *c, Message *m) noexcept nogil:
    if not read_stamps(c, m):
        return MESSAGE_SHORT
    m.data = c.p
    m.data_n = <uint32_t>c.n
    c.n = 0
    return MESSAGE_FINE


cdef message_error read_body(Cursor *c, uint8_t count, Message *m) noexcept nogil:
    cdef const uint8_t *p
    if m.type == MSG_DATA:
        return read_data(c, m)
    if m.type == MSG_ACKED:
        return read_acked(c, count, m)
    if m.type == MSG_OPEN or m.type == MSG_ACCEPT:
        return read_open(c, m)
    if m.type == MSG_HELLO:
        return read_hello(c, count, m)
    if m.type == MSG_ENGAGED:
        p = take(c, ENGAGED_SIZE - PREFIX_SIZE)
        if p == NULL:
            return MESSAGE_SHORT
        m.tsval = load32(p)
        return MESSAGE_FINE
    if MSG_PING <= m.type <= MSG_PONG or MSG_REJECT <= m.type < MSG_TYPES:
        return MESSAGE_FINE
    return MESSAGE_TYPE


cdef message_error read_message(const uint8_t *p, size_t n, bint checked, Message *m) noexcept nogil:
    cdef Cursor c
    cdef message_error error
    memset(m, 0, sizeof(Message))
    c.p = p
    c.n = n
    if checked:
        if n < PREFIX_SIZE + CRC_SIZE:
            return MESSAGE_SHORT
        c.n -= CRC_SIZE
        if load32(p + c.n) != crc32c(0, p, c.n):
            return MESSAGE_CHECKSUM
    p = take(&c, PREFIX_SIZE)
    if p == NULL:
        return MESSAGE_SHORT
    m.type = p[0]
    m.flags = p[1]
    m.epoch = p[2]
    m.position = load32(p + 4)
    m.token = load64(p + 8)
    error = read_body(&c, p[3], m)
    return error if error or c.n == 0 else MESSAGE_LONG


# ---- Python's face ----------------------------------------------------------------------------

TYPES = {
    "hello": MSG_HELLO, "ping": MSG_PING, "pong": MSG_PONG, "open": MSG_OPEN, "accept": MSG_ACCEPT,
    "reject": MSG_REJECT, "engaged": MSG_ENGAGED, "data": MSG_DATA, "acked": MSG_ACKED, "probe": MSG_PROBE,
    "refused": MSG_REFUSED, "reset": MSG_RESET, "leave": MSG_LEAVE,
}
_NAMES = {number: name for name, number in TYPES.items()}
_FAULTS = {
    MESSAGE_SHORT: "it is shorter than its type says", MESSAGE_LONG: "bytes behind its end",
    MESSAGE_TYPE: "an unknown type", MESSAGE_CHECKSUM: "a wrong checksum", MESSAGE_OPTIONS: "malformed options",
}


class MessageError(ValueError):
    """Bytes that are no message of the flow protocol, or values that none can carry."""


def checksum(bytes data not None) -> int:
    """CRC32C of the bytes (RFC 3720 B.4)."""
    return crc32c(0, data, len(data))


def checksum_in_software(bytes data not None) -> int:
    """The same without the processor's instruction, for machines that have none."""
    return ~hk_crc_software(0xffffffff, data, len(data)) & 0xffffffff


cdef bytes message_bytes(const Message *m, bint checked):
    cdef uint8_t head[MAX_CONTROL]
    cdef uint32_t n = write_message(head, m)
    cdef bytes whole = head[:n]
    if m.type == MSG_DATA and m.data_n > 0:
        whole += m.data[:m.data_n]
    return whole + checksum(whole).to_bytes(4, "big") if checked else whole


def encode(str kind not None, *, epoch=0, flags=0, position=0, token=0, own_token=0, proof=bytes(16), edge=0, serial=0,
           duplicates=0, tsval=0, tsecr=0, sack=(), bytes data not None=b"", bint checked=False) -> bytes:
    """One message; `kind` and the fields are those of docs/flow.md, `sack` is pairs of positions.

    `checked` puts a CRC32C behind it. Raises MessageError for a kind that does not exist or a value that does not fit.
    """
    cdef Message m
    memset(&m, 0, sizeof(m))
    if kind not in TYPES:
        raise MessageError(f"no message is called {kind!r}; there are {', '.join(TYPES)}")
    if len(sack) > MAX_BLOCKS or len(proof) != PROOF_SIZE or (kind == "hello" and len(data) > MAX_OPTIONS):
        raise MessageError(f"{kind}: at most {MAX_BLOCKS} SACK blocks, {MAX_OPTIONS} bytes of options, "
                           f"and a proof of {PROOF_SIZE} bytes")
    try:
        m.type, m.flags, m.epoch, m.position, m.token = TYPES[kind], flags, epoch, position, token
        m.own_token, m.edge, m.serial, m.duplicates = own_token, edge, serial, duplicates
        m.tsval, m.tsecr, m.blocks = tsval, tsecr, len(sack)
        for i, value in enumerate(value for pair in sack for value in pair):
            m.sack[i] = value
    except OverflowError as exc:
        raise MessageError(f"{kind}: a value does not fit its field: {exc}") from None
    memcpy(m.proof, <const uint8_t *>(<bytes>proof), PROOF_SIZE)
    m.data = data
    m.data_n = <uint32_t>len(data)
    return message_bytes(&m, checked)


def decode(bytes data not None, *, bint checked=False) -> dict:
    """The message's fields by their names in docs/flow.md, with `kind`. Raises MessageError; `.args[0]` says why."""
    cdef Message m
    cdef uint8_t *copy = <uint8_t *>malloc(len(data) + 1)       # of its own size, so that a checker sees a byte too far
    if copy == NULL:
        raise MemoryError
    try:
        memcpy(copy, <const uint8_t *>data, len(data))
        error = read_message(copy, len(data), checked, &m)
        if error:
            raise MessageError(f"not a message of the flow protocol: {_FAULTS[error]}")
        return {
            "kind": _NAMES[m.type], "flags": m.flags, "epoch": m.epoch, "position": m.position, "token": m.token,
            "own_token": m.own_token, "proof": bytes(m.proof[:PROOF_SIZE]), "edge": m.edge, "serial": m.serial,
            "duplicates": m.duplicates, "tsval": m.tsval, "tsecr": m.tsecr,
            "sack": tuple((m.sack[2 * i], m.sack[2 * i + 1]) for i in range(m.blocks)),
            "data": m.data[:m.data_n] if m.data_n else b"",
        }
    finally:
        free(copy)
