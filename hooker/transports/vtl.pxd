# The flow protocol's messages over VTL's channels (docs/vtl.md, 4.5). VTL repairs, keeps no order, and protects its
# payload with a key, else as UDP's checksum does.
#
# DATA is a block: its id is the lower half of the token, so an engine gives no two of its flows the same lower half. Of
# its header, timestamps and the upper half of the token do not travel. ACKED is the channel's report. All else travels
# as it is written.

from libc.stdint cimport uint8_t, uint32_t
from hooker.flow.messages cimport Message, message_error
from hooker.vtl.api cimport vtl_assoc, vtl_block, vtl_channel

# 0, or -1: full. DATA is borrowed from `owner`. Of ACKED only that one is due: the sink's report() is asked later, and
# write_report() writes it.
cdef int send_message(vtl_channel *c, const Message *m, void *owner) noexcept nogil
# The same without a channel: HELLO, and answers about flows that nobody knows. Not DATA, nor ACKED.
cdef int say_message(vtl_assoc *a, const Message *m) noexcept nogil
cdef uint32_t write_report(const Message *acked, uint8_t *out) noexcept nogil           # for report(): the bytes
cdef void message_of_block(const vtl_block *b, Message *m) noexcept nogil               # the token has a lower half only
cdef message_error message_of_control(const uint8_t *p, size_t n, Message *m) noexcept nogil
