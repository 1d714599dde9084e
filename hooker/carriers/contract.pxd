# What VTL as a transport and a carrier say to each other (docs/transports.md, 2). A carrier moves the
# datagrams that VTL builds between two hosts, in batches, and knows nothing of what is in them. It has its
# own sockets and runs in the worker's loop: everything is `noexcept nogil`, nothing waits. A transport has
# one; so an association stays on the carrier that it came by.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.vtl.api cimport vtl_addr, vtl_batch

cdef enum carrier_property:    # what it can do
    C_ECN = 1 << 0             # the two bits of the IP header, in both directions
    C_TRAINS = 1 << 1          # the kernel cuts one send into datagrams, and joins those that come (GSO, GRO)
    C_CHECKED = 1 << 2         # the kernel's checksum covers all bytes; without it the carrier adds its own
    C_COVERAGE = 1 << 3        # how far the kernel's checksum reaches can be set
    C_PORTS = 1 << 4           # without them ports of addresses are 0, and a host has one engine
    C_CONGESTION = 1 << 5      # it sends no more than the path takes: VTL's own control stands aside
    C_CONNECTIONS = 1 << 6     # addresses are those of connections, and errors come with what is received
    C_FRAMES = 1 << 7          # what it can it sends as frames of its own, past the kernel's way out

cdef enum:
    CARRIER_CONTRACT = 5       # number of all that is here: another one, another layout (installed.py)
    QUOTED = 64                # bytes of a datagram that an ICMP error shows us
    MOST_PARTS = 4096          # iovecs of a batch
    C_DESCRIPTORS = 3          # IPv4, IPv6, queues of interfaces

cdef enum carrier_way:         # how a datagram has left, of a carrier with C_FRAMES
    C_FRAME                    # as a frame; all others by the kernel:
    C_IN_TURN                  # for one has to now and then
    C_ROUTE                    # there is none, or one that is more than a next hop
    C_INTERFACE                # it leaves by another one
    C_NEIGHBOUR                # the kernel does not know it for certain
    C_IPSEC                    # there are policies
    C_SIZE                     # larger than the link's, or than a chunk
    C_SOURCE                   # no address of ours for it
    C_FULL                     # nothing has left by frames for long
    C_ASKED                    # the kernel has not yet said where it goes, or there is no room for more peers
    C_UNPROVEN                 # nobody is asked for an answer to whoever it was
    C_WAYS

cdef struct Carrier

cdef struct Datagram:          # one of a received batch
    uint8_t *data
    uint32_t size
    uint32_t segment           # of the train; 0: it is one datagram
    uint8_t ecn                # the two bits of the IP header, equal in a train
    vtl_addr source

cdef struct PathError:         # an ICMP error
    vtl_addr to                # whom it is about
    uint32_t mtu               # EMSGSIZE: bytes of an IP packet that may pass, as is said; 0: nothing is
    uint32_t size              # bytes of the datagram it quotes; 0 with EMSGSIZE: our own link says so
    uint8_t quoted[QUOTED]


cdef struct CarrierOps:
    int (*open)(Carrier *c, uint16_t port, uint16_t *bound) noexcept nogil        # 0, or -errno; port 0: any
    void (*close)(Carrier *c) noexcept nogil                # also of what is closed, or was never opened
    void (*free)(Carrier *c) noexcept nogil
    int (*descriptor)(const Carrier *c, int which) noexcept nogil       # of C_DESCRIPTORS; negative: none
    # A batch; how many trains, 0: none, or -errno. They stay where they are until the next one.
    int (*receive)(Carrier *c, int which) noexcept nogil
    # The next datagram of a train, or False. `offset` begins at 0; `out` keeps what holds for all of them.
    bint (*split)(Carrier *c, int train, uint32_t *offset, Datagram *out) noexcept nogil
    # Index of the first datagram that was not sent: the socket is full. What the path refuses counts as sent.
    uint32_t (*send)(Carrier *c, vtl_batch *b, uint32_t first) noexcept nogil
    # What an XDP program leads to it of this queue of an interface is received, too: by a descriptor for that
    # program's map, which stays the carrier's; or -errno. NULL: a carrier that cannot.
    int (*attach)(Carrier *c, uint32_t ifindex, uint32_t queue) noexcept nogil
    void (*detach)(Carrier *c, uint32_t ifindex) noexcept nogil     # of all its queues; as attach
    # errno of an ICMP error, 0: none. EMSGSIZE with nothing quoted: our own link's answer to what was sent
    int (*error)(Carrier *c, int which, PathError *out) noexcept nogil


cdef struct Carrier:           # each carrier's own structure begins with this
    const CarrierOps *ops
    uint32_t properties        # carrier_property
    uint32_t overhead          # bytes of IPv4's header and of what is not VTL's behind it; with IPv6 20 more
    bint trains                # off after a send that the path could not segment
    uint64_t send_calls, recv_calls, sent, received, send_errors
    uint64_t damaged           # datagrams that failed the carrier's own checksum
    uint64_t refused           # connections of peers that found no room
    uint64_t left[C_WAYS]      # datagrams sent, by carrier_way

cdef class CarrierHandle:      # a carrier, for Python: made by its module, given to a transport
    cdef Carrier *c
    cdef public str name       # what users call it, and HELLO does
    cdef bint used             # a transport frees the carrier
    cdef int hold(self, str name, Carrier *c) except -1    # NULL: MemoryError
