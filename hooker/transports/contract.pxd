# What the engine and a transport say to each other (docs/transports.md, 1). A transport carries the flow
# protocol's messages between two engines, for all flows of that pair of hosts. It has its own sockets and
# runs in the worker's loop: everything is `noexcept nogil`, nothing waits.
#
# Callbacks run inside the call that caused them, but assoc_down(), channel_down() and release(): those come
# out of the next flush().

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from hooker.flow.messages cimport Message
from hooker.includes.linux cimport EPOLL_CTL_ADD, epoll_ctl, epoll_event

cdef enum transport_property:  # what it gives
    T_REPAIRS = 1 << 0         # what is lost on the way is sent again: FlowConfig.repairs
    T_ORDERED = 1 << 1         # messages of a channel arrive in their order
    T_INTEGRITY = 1 << 2       # damage is found: no message needs a CRC32C of its own
    T_PATH_BOUND = 1 << 3      # nobody else can speak in the peer's place
    T_CONGESTION = 1 << 4      # it does not send more than the path takes
    T_WHOLE = 1 << 5           # no byte is given up: hole() never comes
    T_QUEUED = 1 << 6          # what waits for the path is in a queue of the kernel's

cdef enum down_reason:         # why an association is down
    DOWN_CLOSED = 0            # by either engine, or nobody needed it
    DOWN_UNREACHABLE           # it never came up: nobody answers there
    DOWN_SILENT                # the peer has vanished
    DOWN_REPLACED              # another engine is there now
    DOWN_KEY                   # one has no key, or another one
    DOWN_VERSION               # nothing that both speak
    DOWN_PROTOCOL              # the peer broke the transport's rules
    DOWN_MEMORY
    DOWN_PROTOTYPE             # a user's class has failed: Handle.failure() says how
    DOWN_NAME                  # another class of a user's is there

cdef enum take_kind:           # what the engine holds for a peer of what its own applications have sent
    TAKE_SLABS                 # of which the peer has not acknowledged some byte
    TAKE_COPIES                # bytes
    TAKE_KEPT                  # segments
    TAKES

cdef enum:
    ROW_SIZE = 512             # bytes of what stats() writes at most
    OWN_TAG = (1 << 24) - 1    # a transport's part of an epoll tag


cdef struct PeerAddress:       # of a peer's engine
    uint8_t ip[16]             # IPv4 as ::ffff:a.b.c.d
    uint16_t port              # host byte order

cdef struct Transport
cdef struct Association
cdef struct Channel


cdef struct Sink:              # what a transport tells the engine; `ctx` comes back as the first argument
    void *ctx
    void (*assoc_up)(void *ctx, Association *a) noexcept nogil
    # `a` is freed afterwards
    void (*assoc_down)(void *ctx, Association *a, down_reason why) noexcept nogil
    # Messages in whatever order, perhaps twice; DATA may have been cut anywhere, and of its token only the
    # lower half is there. stable: its bytes stay where they are until settle(); else they do during the call.
    void (*message)(void *ctx, Association *a, const Message *m, bint stable) noexcept nogil
    # The peer has given up data_n bytes of DATA (data: NULL), and sent some behind them. Only where both
    # hosts have chosen that. Like DATA it may come twice, and be untrue.
    void (*hole)(void *ctx, Association *a, const Message *m) noexcept nogil
    void (*settle)(void *ctx) noexcept nogil
    # The newest ACKED of a channel's owner, composed now; False: none after all. It calls nothing here.
    bint (*report)(void *ctx, void *user, Message *out) noexcept nogil
    void (*release)(void *ctx, void *owner, size_t n) noexcept nogil        # n borrowed bytes of DATA
    # Its association is down: to be closed by the engine.
    void (*channel_down)(void *ctx, void *user) noexcept nogil
    # It will carry nothing any more: Handle.failure() says why. Its associations go down, too.
    void (*failed)(void *ctx, Transport *t) noexcept nogil


cdef struct TransportOps:
    # --- the transport as a whole
    int (*open)(Transport *t, uint16_t port, uint16_t *bound) noexcept nogil      # 0, or -errno; port 0: any
    # A descriptor of that name (watch_file) is.
    void (*ready)(Transport *t, uint32_t own, uint32_t events, uint64_t now) noexcept nogil
    # The loop has stood still: all that has arrived meanwhile is heard now, within a bound.
    void (*catch_up)(Transport *t, uint64_t now) noexcept nogil
    uint64_t (*deadline)(Transport *t) noexcept nogil       # ns; UINT64_MAX: none
    void (*on_time)(Transport *t, uint64_t now) noexcept nogil
    void (*flush)(Transport *t, uint64_t now) noexcept nogil        # once in a round: what waits goes out
    uint64_t (*held_less)(const Transport *t) noexcept nogil   # bytes held for peers: less than at the peak,
    void (*held_noted)(Transport *t) noexcept nogil                 # which is now
    void (*note)(Transport *t) noexcept nogil               # copies its counts, for Handle.counters()
    # As the carrier's (carriers/contract.pxd): an AF_XDP socket for this queue of an interface, and no more.
    int (*attach)(Transport *t, uint32_t ifindex, uint32_t queue) noexcept nogil
    void (*detach)(Transport *t, uint32_t ifindex) noexcept nogil
    void (*close_files)(Transport *t) noexcept nogil        # in a forked child
    # All associations end without a word; borrowed bytes come back, no other callback. It stays for note().
    void (*shut)(Transport *t) noexcept nogil
    void (*free)(Transport *t) noexcept nogil
    # --- associations
    # The existing one, or one that begins; NULL: no memory.
    Association *(*connect)(Transport *t, const PeerAddress *to, uint64_t now) noexcept nogil
    # The same with the reliability function that has this code. NULL: a transport that has one only.
    Association *(*connect_as)(Transport *t, const PeerAddress *to, uint8_t function,
                               uint64_t now) noexcept nogil
    bint (*is_up)(const Association *a) noexcept nogil
    const PeerAddress *(*peer)(const Association *a) noexcept nogil
    # ns within which what was sent is answered as a rule; 0: nothing was measured yet
    uint64_t (*patience)(const Association *a) noexcept nogil
    # A message of nobody's channel: a greeting, or an answer about a flow that nobody knows; no DATA.
    int (*say)(Association *a, const Message *m) noexcept nogil       # 0, or -1: full, or down
    void (*hold)(Association *a) noexcept nogil             # as if it had one channel more, until let_go()
    void (*let_go)(Association *a) noexcept nogil
    void (*close)(Association *a, uint64_t now) noexcept nogil        # the peer is told; assoc_down() follows
    void (*stats)(const Association *a, uint8_t *row) noexcept nogil        # ROW_SIZE bytes, for Handle.row()
    # What the engine holds for a peer counts for its source: associations of one IPv4 address or IPv6 /64.
    void (*take)(Association *a, take_kind what, int64_t n) noexcept nogil
    uint64_t (*taken)(const Association *a, take_kind what) noexcept nogil    # of the source
    uint32_t (*sources)(const Association *a) noexcept nogil                  # that share; 256 at least
    # --- channels: the outgoing queue of one flow
    Channel *(*channel)(Association *a, void *user) noexcept nogil  # NULL: no memory, too many, or down
    void (*channel_close)(Channel *c) noexcept nogil        # drops its DATA; what was said still goes out
    # 0, or -1: full, or down. DATA is borrowed from `owner` until release(). Of ACKED without SACK blocks
    # only that one is due: it is composed when it leaves, by report().
    int (*send)(Channel *c, const Message *m, void *owner) noexcept nogil
    void (*report)(Channel *c) noexcept nogil               # an ACKED is due
    uint64_t (*waiting)(const Channel *c) noexcept nogil    # bytes of DATA that the network has not got
    uint64_t (*all_waiting)(const Channel *c) noexcept nogil        # those of all channels of its association
    # As many as keep the network busy until acknowledgements bring more; 0: nobody knows. NULL: the same.
    uint64_t (*enough)(const Channel *c) noexcept nogil
    uint64_t (*unacked)(const Channel *c) noexcept nogil    # bytes of DATA that were not released yet
    bint (*arrived)(const Channel *c) noexcept nogil        # the peer has all of them. NULL: nobody knows
    # Of those the highest, or nearly; False: there is none.
    bint (*newest)(const Channel *c, Message *out) noexcept nogil
    # Nothing waits or is under way: a channel closed now and opened again is the same to the peer.
    bint (*at_rest)(const Channel *c) noexcept nogil


cdef struct Transport:         # each transport's own structure begins with this
    const TransportOps *ops
    Sink sink
    uint32_t properties        # transport_property
    uint8_t wire_id            # as in the TCP option; HELLO's bitmap counts by it, too
    const uint8_t *options     # of HELLO
    uint32_t options_n
    uint32_t index             # among the engine's
    uint32_t tag               # in the upper half of epoll tags
    int epoll_fd
    uint64_t bad_messages      # that could not be read

cdef struct Association:       # and each association
    const TransportOps *ops
    Transport *t
    uint32_t lacks             # of the transport's properties, those it has not; holds from assoc_up() on
    void *user                 # the engine's

cdef struct Channel:           # and each channel
    const TransportOps *ops


cdef inline int watch_file(Transport *t, int fd, uint32_t events, uint32_t own) noexcept nogil:
    """ready(own) follows. 0, or -1 with errno."""
    cdef epoll_event ev
    ev.events = events
    ev.data.u64 = <uint64_t>t.tag << 32 | <uint64_t>t.index << 24 | own
    return epoll_ctl(t.epoll_fd, EPOLL_CTL_ADD, fd, &ev)


cdef class Handle:             # a transport, for Python: made by hooker.transports.makers, given to a Worker
    cdef Transport *t
    cdef readonly str name
    cdef bint used             # a worker frees the transport
    cdef dict counted(self)    # what note() copied, by name
    cdef dict row(self, const uint8_t *row)                 # what stats() wrote, by name
    # What hk_ingress (docs/ingress.md) is told of it: carrier, secret, versions, keyed; None: nothing.
    # From now on its connection ids and its state are in these maps.
    cdef dict ingress(self, int known_fd, int states_fd)
    cdef str failure(self)     # why it carries nothing any more, or cannot be opened; "": nothing is known
