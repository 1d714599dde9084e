"""The redirect socket's frames, cut anywhere: the parser against the plainest possible reading of the whole.

Input: a byte for the size of the entry table, then pieces, each with its length in front.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.engine.frames cimport FRAME_FIRST, FRAME_LAST, frame_entry, frame_parser, frames_init, frames_parse
from hooker.includes.hk cimport HK_FRAME_MAGIC, hk_frame
from fuzz.input cimport Input, next8
from fuzz.side cimport fail, failure, forget_failure

cdef enum:
    TABLE = 16
    HEADER = 16
    MAX_MESSAGE = 1 << 24


cdef struct Model:             # byte after byte
    uint8_t head[HEADER]
    uint32_t have, left
    uint64_t flow_id
    bint fresh, broken


cdef bint model_byte(Model *m, uint8_t byte) noexcept nogil:
    """Whether this byte is payload."""
    cdef hk_frame f
    if m.left > 0:
        m.left -= 1
        return True
    m.head[m.have] = byte
    m.have += 1
    if m.have == HEADER:
        memcpy(&f, m.head, HEADER)
        m.have = 0
        m.left = f.length
        m.flow_id = f.flow_id
        m.fresh = True
        m.broken = f.magic != HK_FRAME_MAGIC or f.length == 0 or f.length > MAX_MESSAGE
    return False


cdef void check_entry(Model *m, const uint8_t *data, size_t *at, const frame_entry *e) noexcept nogil:
    """The entry is what the model reads next."""
    cdef uint32_t i
    cdef bint first
    while at[0] < e.offset:
        if model_byte(m, data[at[0]]):
            fail("payload was skipped")
        at[0] += 1
    first = m.fresh
    m.fresh = False
    if e.length == 0 or e.length > m.left or e.flow_id != m.flow_id or first != (e.flags & FRAME_FIRST != 0):
        fail("a wrong entry")
        return
    for i in range(e.length):
        model_byte(m, data[at[0]])
        at[0] += 1
    if (m.left == 0) != (e.flags & FRAME_LAST != 0):
        fail("a wrong end")


cdef void piece(frame_parser *p, Model *m, const uint8_t *data, size_t n, uint32_t room) noexcept nogil:
    cdef frame_entry table[TABLE]
    cdef size_t done = 0, used = 0, at = 0
    cdef uint32_t i, count
    while done < n and failure() == NULL:
        count = frames_parse(p, data + done, n - done, table, room, &used)
        for i in range(count):
            table[i].offset += done
            check_entry(m, data, &at, &table[i])
        done += used
        while at < done and not m.broken:
            if model_byte(m, data[at]):
                fail("payload without an entry")
            at += 1
        if m.broken or p.broken:
            if m.broken != p.broken:
                fail("lost framing, says one of the two")
            return
        if used == 0:
            fail("no progress")


cdef void run(Input *i) noexcept nogil:
    cdef frame_parser p
    cdef Model m
    cdef uint8_t *copy
    cdef size_t n
    cdef uint32_t room = 1 + next8(i) % TABLE
    frames_init(&p)
    memset(&m, 0, sizeof(m))
    while i.n > 0 and failure() == NULL and not p.broken:
        n = <size_t>1 + next8(i)
        n = min(n, i.n)
        copy = <uint8_t *>malloc(n if n > 0 else 1)
        memcpy(copy, i.p, n)
        i.p += n
        i.n -= n
        piece(&p, &m, copy, n, room)
        free(copy)


cdef api int one_frames(const uint8_t *data, size_t n) noexcept nogil:
    """0, or 1 when something broke; failure() says what."""
    cdef Input i
    i.p = data
    i.n = n
    forget_failure()
    run(&i)
    return failure() != NULL


def replay(bytes data not None):
    """Runs one input; raises AssertionError when it breaks something."""
    if one_frames(data, len(data)):
        raise AssertionError(failure().decode())
