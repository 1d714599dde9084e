# What an association has to send: its channels and control messages. Over a byte stream they go in frames, a
# length of 32 bits, which does not count itself, and a message of the flow protocol; where the kernel keeps
# messages apart, without the length; else one by one.
# Signed, a message has a CRC32C behind it, which the length counts; not where they are apart.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.flow.messages cimport MAX_CONTROL, Message
from hooker.includes.links cimport Link, LinkList
from hooker.includes.linux cimport iovec
from hooker.transports.contract cimport Channel, Sink, TransportOps
from hooker.transports.sources cimport Source, SourceTable

cdef enum:
    LENGTH_SIZE = 4
    CUT = 32 << 10             # bytes of DATA in one frame, as a rule
    BATCH_BYTES = 128 << 10    # of one batch, about
    BATCH_IOV = 256
    BATCH_MESSAGES = 128       # of one batch whose messages are kept apart
    FRAME_ROOM = 104           # bytes of a length and what is not DATA's payload
    CHANNEL_QUEUE = 8 << 20    # bytes of one flow's that wait: more than a TCP's window, as a rule

cdef struct Item:              # DATA; its bytes are borrowed
    Item *next
    const uint8_t *data
    void *owner
    uint64_t token
    uint32_t position
    uint32_t n
    uint16_t segment           # bytes, as Message has it
    uint16_t into              # bytes of its first segment that are cut off already
    uint8_t epoch
    uint8_t flags

cdef struct Word:              # a control message
    Word *next
    uint32_t n
    uint8_t bytes[104]         # FRAME_ROOM: its frame

cdef struct WordList:
    Word *first
    Word *last
    uint32_t n

cdef struct Outgoing

cdef struct QueueChannel:      # of one flow
    Channel base
    Outgoing *out              # NULL: its association is down
    void *user
    Link one                   # of all there are of its association
    Link busy                  # of those with DATA
    Link talking               # of those with control messages, or a report
    bint report_due
    Item *first
    Item *last
    WordList words
    uint64_t waiting           # bytes of DATA
    uint64_t held              # the same with their items
    uint32_t lane              # where its DATA goes, of transports with several streams
    uint64_t lane_end          # and where its last ends there

cdef struct Batch:             # what one call is given
    iovec iov[256]             # BATCH_IOV
    uint32_t n
    uint32_t bytes
    uint32_t used              # of `room`
    uint8_t room[26624]        # BATCH_IOV frames of FRAME_ROOM
    bint apart                 # messages go without length, and each begins a part
    uint32_t messages          # then: how many, and where in `iov` each one begins
    uint32_t begins[128]       # BATCH_MESSAGES

cdef struct Piece:             # a frame of DATA
    uint8_t head[104]          # FRAME_ROOM: what is before the payload
    uint32_t head_n
    const Item *item           # the payload

cdef struct QueueShared:       # of a transport
    Sink *sink
    const TransportOps *ops
    SourceTable *sources
    uint32_t cut               # bytes of DATA in one frame
    bint signed                # every message ends with a CRC32C
    Item *done                 # DATA whose bytes nobody wants any more
    Item *spare
    uint32_t spares
    Batch batch

cdef struct Outgoing:          # of an association
    QueueShared *shared
    Source *source             # NULL: of none, then nothing is accounted
    LinkList all               # channels
    uint32_t channels
    LinkList busy
    LinkList talking
    WordList words             # nobody's channel's
    uint64_t waiting           # bytes of DATA of all channels
    uint32_t turn              # bytes that are left to the first of `busy`; 0: it has had none

cdef bint out_wants(const Outgoing *o) noexcept nogil                          # there is something to send
cdef int out_say(Outgoing *o, const Message *m) noexcept nogil                 # 0, or -1: full
cdef bint out_talks(const Outgoing *o) noexcept nogil                          # control messages, or a report
# Frames, behind what is in it, until these are so many bytes or more: one frame at least.
cdef void out_fill(Outgoing *o, Batch *b, uint32_t most) noexcept nogil
# The same of control messages alone.
cdef void out_fill_words(Outgoing *o, Batch *b, uint32_t most) noexcept nogil
# A frame of one channel's first DATA. Its bytes stay until shared_release(). False: no memory.
cdef bint piece_take(QueueChannel *c, Piece *out) noexcept nogil
# Without frames: control messages that fit into n bytes, one behind the other; the bytes they are.
cdef uint32_t out_words(Outgoing *o, uint8_t *room, uint32_t n) noexcept nogil
cdef uint32_t out_next(const Outgoing *o) noexcept nogil                      # the next DATA's bytes; 0: none
# Of that `most` bytes at most, to the end of a segment if one is so near. NULL: none, or no memory.
# Its bytes stay until shared_release().
cdef const Item *out_piece(Outgoing *o, uint32_t most) noexcept nogil
cdef void out_down(Outgoing *o) noexcept nogil                                 # channel_down() for each
cdef void out_end(Outgoing *o) noexcept nogil                                  # the same without a word
cdef void shared_release(QueueShared *s) noexcept nogil                        # the bytes of what was sent
cdef void shared_end(QueueShared *s) noexcept nogil

cdef Channel *channel_new(Outgoing *o, void *user) noexcept nogil              # NULL: no memory
cdef void channel_free(Channel *c) noexcept nogil
cdef int channel_send(Channel *c, const Message *m, void *owner) noexcept nogil
cdef void channel_report(Channel *c) noexcept nogil
cdef uint64_t channel_waiting(const Channel *c) noexcept nogil
cdef uint64_t channel_all_waiting(const Channel *c) noexcept nogil
cdef bint channel_newest(const Channel *c, Message *out) noexcept nogil
cdef bint channel_at_rest(const Channel *c) noexcept nogil
