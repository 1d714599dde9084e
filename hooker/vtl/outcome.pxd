from hooker.vtl.core cimport Assoc
from hooker.vtl.recovery cimport SentFrame, SentPacket

# for recovery's Listener; ctx is the association
cdef void frame_acked(void *ctx, const SentFrame *f) noexcept nogil
cdef void frame_lost(void *ctx, const SentFrame *f) noexcept nogil
cdef void frame_again(void *ctx, const SentFrame *f) noexcept nogil
cdef void frame_forgotten(void *ctx, const SentFrame *f) noexcept nogil
cdef void packet_lost(void *ctx, const SentPacket *p) noexcept nogil

# the peer has moved: everything unacknowledged goes again
cdef void packets_abandon(Assoc *a) noexcept nogil
cdef void requeue_for_probe(Assoc *a) noexcept nogil
# so much has left since the oldest that the record would become long
cdef void packets_forget(Assoc *a) noexcept nogil
