# Congestion control: the interface, and a registry by name.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct CongestionAck:     # one ACK that acknowledged something new
    uint64_t now               # ns
    uint64_t bytes             # newly acknowledged
    uint64_t sent_at           # of the newest packet acknowledged
    uint64_t srtt, latest_rtt, min_rtt   # ns
    bint limited               # the window was not in use: by application or flow control


cdef struct Window:            # what a controller decides by
    uint64_t cwnd              # bytes
    uint64_t ssthresh          # bytes
    uint64_t state[16]         # the controller's own


cdef struct Congestion:
    const congestion_ops *ops
    Window w
    Window before              # the last congestion event, to take it back if no loss was real
    uint64_t mss               # bytes of a full datagram
    uint64_t recovery_start    # ns; losses of packets sent before are one event
    uint64_t pacing_rate       # bytes/s; 0: derive it from cwnd and srtt
    uint32_t event_lost        # packets of that event, lost and not yet found spurious; 0: no way back


cdef struct congestion_ops:
    char name[16]
    void (*init)(Congestion *c) noexcept nogil
    void (*on_ack)(Congestion *c, const CongestionAck *a) noexcept nogil
    void (*on_loss)(Congestion *c, uint64_t now) noexcept nogil        # once per congestion event
    void (*on_persistent)(Congestion *c) noexcept nogil                # RFC 9002 7.6


cdef enum:
    MAX_CONTROLLERS = 16

cdef const congestion_ops *congestion_find(const char *name) noexcept nogil      # NULL: unknown
cdef int congestion_register(const congestion_ops *ops) noexcept nogil           # -1: table full
cdef int congestion_init(Congestion *c, const char *name, uint64_t mss) noexcept nogil
cdef void congestion_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil
cdef void congestion_on_loss(Congestion *c, uint32_t packets, uint64_t sent_at, uint64_t now,
                             bint persistent) noexcept nogil
cdef void congestion_on_spurious(Congestion *c, uint32_t packets) noexcept nogil
