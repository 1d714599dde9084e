# Congestion control: the interface, and a registry by name.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct CongestionAck:     # one ACK that acknowledged something new
    uint64_t now               # ns
    uint64_t bytes             # newly acknowledged
    uint64_t lost              # bytes found lost since the ACK before
    uint64_t marked            # packets newly reported as marked CE
    uint64_t sent_at           # of the newest packet acknowledged
    uint64_t srtt, latest_rtt, min_rtt   # ns
    uint64_t in_flight         # bytes, after this ACK
    uint64_t delivered         # bytes, since the association began
    # the delivery rate sample of the newest packet (draft-ietf-ccwg-bbr 4.1)
    uint64_t rate              # bytes/s; 0: none
    uint64_t sampled           # bytes delivered since that packet left
    uint64_t prior_delivered   # `delivered` when it left
    uint64_t tx_in_flight      # bytes in flight when it left, it included
    uint64_t lost_since        # bytes lost since it left
    bint rtt_sample            # latest_rtt is new
    bint app_limited           # the sender had nothing more to send when it left
    bint outran                # the flight took a quarter longer to arrive than to be sent: the path was the limit
    bint round_start           # the first ACK of a round trip
    bint limited               # the window was not in use: by application or flow control


cdef struct CongestionLoss:    # one packet found lost
    uint64_t now               # ns
    uint64_t bytes
    uint64_t sent_at           # ns
    uint64_t tx_in_flight      # bytes in flight when it left, it included
    uint64_t lost_since        # bytes lost since it left, it included
    bint app_limited


cdef struct Window:            # what a controller by window decides by
    uint64_t cwnd              # bytes
    uint64_t ssthresh          # bytes
    uint64_t state[16]         # the controller's own


cdef enum:
    MODEL_WORDS = 64

cdef struct Congestion:
    const congestion_ops *ops
    Window w
    Window before              # the last congestion event, to take it back if no loss was real
    uint64_t mss               # bytes of a full datagram
    uint64_t recovery_start    # ns; losses of packets sent before are one event
    uint64_t pacing_rate       # bytes/s; 0: derive it from cwnd and srtt
    uint64_t lost              # bytes, not yet told by an ACK
    uint32_t event_lost        # packets of that event, lost and not yet found spurious; 0: no way back
    uint64_t model[MODEL_WORDS]   # state of a controller by model, never taken back


cdef struct congestion_ops:
    char name[16]
    bint model                 # sees every ACK, and takes losses and marks into account itself
    void (*init)(Congestion *c) noexcept nogil
    void (*on_ack)(Congestion *c, const CongestionAck *a) noexcept nogil
    void (*on_loss)(Congestion *c, uint64_t now) noexcept nogil        # once per congestion event
    void (*on_persistent)(Congestion *c) noexcept nogil                # RFC 9002 7.6
    # the rest may be NULL
    void (*on_packet_lost)(Congestion *c, const CongestionLoss *l) noexcept nogil
    void (*on_restart)(Congestion *c, uint64_t now) noexcept nogil     # something is sent when nothing was in flight
    void (*on_spurious)(Congestion *c, uint32_t packets) noexcept nogil   # so many were not lost, only late
    void (*on_resize)(Congestion *c, uint64_t before) noexcept nogil   # mss is another one than `before`
    void (*release)(Congestion *c) noexcept nogil                      # the association ends


cdef enum:
    MAX_CONTROLLERS = 16
    MIN_PACKETS = 2            # RFC 9002 7.2

cdef const congestion_ops *congestion_find(const char *name) noexcept nogil      # NULL: unknown
cdef int congestion_register(const congestion_ops *ops) noexcept nogil           # -1: table full
cdef void congestion_unregister(const congestion_ops *ops) noexcept nogil        # it stays valid: endpoints go on with it
cdef void congestion_init(Congestion *c, const congestion_ops *ops, uint64_t mss) noexcept nogil
cdef void congestion_resize(Congestion *c, uint64_t mss) noexcept nogil
cdef void congestion_free(Congestion *c) noexcept nogil
cdef void congestion_use(Congestion *c, const congestion_ops *ops) noexcept nogil   # another controller, from its beginning
cdef void congestion_on_ack(Congestion *c, CongestionAck *a) noexcept nogil
cdef void congestion_on_packet_lost(Congestion *c, const CongestionLoss *l) noexcept nogil
cdef void congestion_on_loss(Congestion *c, uint32_t packets, uint64_t sent_at, uint64_t now,
                             bint persistent) noexcept nogil
cdef void congestion_on_spurious(Congestion *c, uint32_t packets) noexcept nogil
cdef void congestion_collapse(Congestion *c) noexcept nogil            # to the least window

cdef int congestion_fill(congestion_ops *ops, bytes name) except -1    # names it, and registers it
