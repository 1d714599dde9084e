"""The flow protocol's messages over VTL's channels: see vtl.pxd."""

from libc.string cimport memset
from hooker.flow.messages cimport (
    MAX_CONTROL, MESSAGE_FINE, MESSAGE_TYPE, MSG_ACKED, MSG_DATA, message_bytes, read_message, write_message,
)
from hooker.vtl.api cimport VTL_BLOCK_FLAGS
from hooker.vtl.endpoint cimport vtl_channel_report, vtl_channel_say, vtl_channel_send, vtl_say

from hooker.flow.messages import MessageError


cdef void block_of(const Message *m, vtl_block *b) noexcept nogil:
    b.id = <uint32_t>m.token
    b.position = m.position
    b.epoch = m.epoch
    b.flags = m.flags & VTL_BLOCK_FLAGS
    b.n = m.data_n
    b.data = m.data


cdef int send_message(vtl_channel *c, const Message *m, void *owner) noexcept nogil:
    cdef uint8_t bytes[MAX_CONTROL]
    cdef vtl_block b
    if m.type == MSG_DATA:
        block_of(m, &b)
        return vtl_channel_send(c, &b, owner)
    if m.type == MSG_ACKED and not m.blocks:
        vtl_channel_report(c)
        return 0
    return vtl_channel_say(c, bytes, write_message(bytes, m))


cdef int say_message(vtl_assoc *a, const Message *m) noexcept nogil:
    cdef uint8_t bytes[MAX_CONTROL]
    return vtl_say(a, bytes, write_message(bytes, m))


cdef uint32_t write_report(const Message *acked, uint8_t *out) noexcept nogil:
    return write_message(out, acked)


cdef void message_of_block(const vtl_block *b, Message *m) noexcept nogil:
    memset(m, 0, sizeof(Message))
    m.type = MSG_DATA
    m.flags = b.flags
    m.epoch = b.epoch
    m.position = b.position
    m.token = b.id
    m.data = b.data
    m.data_n = b.n


cdef message_error message_of_control(const uint8_t *p, size_t n, Message *m) noexcept nogil:
    cdef message_error error = read_message(p, n, False, m)
    return MESSAGE_TYPE if error == MESSAGE_FINE and m.type == MSG_DATA else error    # bytes travel in blocks


# ---- Python's face ----------------------------------------------------------------------------

def to_block(bytes message not None) -> tuple:
    """DATA as a block: id, position, epoch, flags, bytes. Raises MessageError for anything else."""
    cdef Message m
    cdef vtl_block b
    if read_message(message, len(message), False, &m) != MESSAGE_FINE or m.type != MSG_DATA:
        raise MessageError("no DATA of the flow protocol")
    block_of(&m, &b)
    return b.id, b.position, b.epoch, b.flags, b.data[:b.n] if b.n else b""


def from_block(uint32_t id, uint32_t position, uint8_t epoch, uint8_t flags, bytes data not None) -> bytes:
    """The DATA that a block stands for, as docs/flow.md has it."""
    cdef vtl_block b
    cdef Message m
    b.id, b.position, b.epoch, b.flags, b.n, b.data = id, position, epoch, flags, len(data), data
    message_of_block(&b, &m)
    return message_bytes(&m, False)


def from_control(bytes data not None) -> bytes:
    """The message in a MESSAGE frame, read and written again. Raises MessageError when it is none that may travel so."""
    cdef Message m
    if message_of_control(data, len(data), &m) != MESSAGE_FINE:
        raise MessageError("no control message of the flow protocol")
    return message_bytes(&m, False)
