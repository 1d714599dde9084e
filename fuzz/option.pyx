"""The TCP option: what bpf/option.h makes of any TCP header's options, and of what it wrote itself.

The header is the kernel programs' own, compiled for user space; only the kernel's two helpers are stood
in for. Input: flags, then the options.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.includes.hk cimport (
    HK_OPT_EXID, HK_OPT_KIND, HK_OPT_LEN, HK_OPT_VERSION_MESSAGES, HK_ROLE_CLIENT, HK_TRANSPORT_VTL, hk_key,
)
from fuzz.input cimport Input, next16, next32, next8
from fuzz.side cimport fail, failure, forget_failure

cdef extern from "fuzz/user_option.h" nogil:
    struct bpf_sock_ops:
        uint8_t opts[40]
        uint32_t len
        int no_syn
    struct hk_option:
        uint8_t kind
        uint8_t len
        uint16_t exid_be
        uint8_t version_role
        uint8_t transport
        uint16_t port_be
        uint64_t nonce
    struct hk_config:
        uint64_t server_secret[2]
        uint64_t client_secret[2]
        uint16_t port
        uint8_t transport
    unsigned int fuzz_bad_options
    int hk_option_store(bpf_sock_ops *s, hk_config *c, uint8_t role, uint64_t nonce)
    int hk_option_load(bpf_sock_ops *s, hk_option *o, uint64_t flags)
    int hk_option_role(hk_option *o)
    uint64_t hk_client_nonce(hk_config *c, hk_key *k, uint64_t socket, uint64_t now)
    uint64_t hk_server_nonce(hk_config *c, hk_key *k, uint64_t client_nonce)


cdef int find(const bpf_sock_ops *s) noexcept nogil:
    """Where our option begins, by the plainest reading; -1: there is none, or the options are malformed before."""
    cdef uint32_t at = 0, size
    while at < s.len and s.opts[at] != 0:
        if s.opts[at] == 1:
            at += 1
            continue
        if at + 1 >= s.len:
            return -1
        size = s.opts[at + 1]
        if size < 2 or at + size > s.len:
            return -1
        if (s.opts[at] == HK_OPT_KIND and size >= 4
                and (<uint16_t>s.opts[at + 2] << 8 | s.opts[at + 3]) == HK_OPT_EXID):
            return at
        at += size
    return -1


cdef bint ours(const bpf_sock_ops *s, int at) noexcept nogil:
    return (at >= 0 and not s.no_syn and s.opts[at + 1] == HK_OPT_LEN
            and s.opts[at + 4] >> 4 == HK_OPT_VERSION_MESSAGES)


cdef void load(bpf_sock_ops *s) noexcept nogil:
    cdef hk_option o
    cdef unsigned int before = fuzz_bad_options
    cdef int at = find(s), rc = hk_option_load(s, &o, 0)
    if (rc == 0) != ours(s, at):
        fail("an option is taken for ours, or ours is not")
    if rc > 0:
        fail("a positive answer")
    if rc == 0 and memcmp(&o, &s.opts[at], HK_OPT_LEN) != 0:
        fail("other fields than on the wire")
    if rc == -71 and fuzz_bad_options != before + 1:
        fail("a malformed option was not counted")


cdef extern from "<string.h>" nogil:
    int memcmp(const void *, const void *, size_t)


cdef void store(bpf_sock_ops *s, Input *i) noexcept nogil:
    """What was stored behind other options loads as it was, if those are well-formed."""
    cdef hk_config c
    cdef hk_option o
    cdef hk_key k
    cdef uint8_t role = HK_ROLE_CLIENT + next8(i) % 3      # and one that nobody knows
    cdef uint64_t nonce = <uint64_t>next32(i) << 32 | next32(i)
    cdef int end = s.len
    memset(&c, 0, sizeof(c))
    memset(&k, 0, sizeof(k))
    c.transport = HK_TRANSPORT_VTL
    c.port = next16(i)
    if s.no_syn or hk_option_store(s, &c, role, nonce) != 0 or find(s) != end:
        return
    if hk_option_load(s, &o, 0) != 0 or hk_option_role(&o) != role or o.nonce != nonce:
        fail("the option does not load as it was stored")
    if o.transport != c.transport or (o.port_be >> 8 | (o.port_be & 255) << 8) != c.port:
        fail("transport or port are not those stored")
    if hk_server_nonce(&c, &k, nonce) == 0 or hk_client_nonce(&c, &k, nonce, c.port) == 0:
        fail("a nonce of 0")


cdef api int one_option(const uint8_t *data, size_t n) noexcept nogil:
    """0, or 1 when something broke; failure() says what."""
    cdef Input i
    cdef bpf_sock_ops s
    cdef uint8_t flags
    i.p = data
    i.n = n
    forget_failure()
    flags = next8(&i)
    memset(&s, 0, sizeof(s))
    s.no_syn = (flags & 7) == 7
    s.len = <uint32_t>min(i.n, <size_t>(flags >> 3 if flags & 1 else 40))
    memcpy(s.opts, i.p, s.len)
    i.p += s.len
    i.n -= s.len
    load(&s)
    store(&s, &i)
    return failure() != NULL


def replay(bytes data not None):
    """Runs one input; raises AssertionError when it breaks something."""
    if one_option(data, len(data)):
        raise AssertionError(failure().decode())


def stored(bytes before not None, int role, int port, nonce):
    """The options `before`, and ours behind them as bpf/option.h writes it; None: no room."""
    cdef hk_config c
    cdef bpf_sock_ops s
    memset(&c, 0, sizeof(c))
    memset(&s, 0, sizeof(s))
    c.transport = HK_TRANSPORT_VTL
    c.port = port
    s.len = len(before)
    memcpy(s.opts, <const char *>before, s.len)
    return s.opts[:s.len] if hk_option_store(&s, &c, role, nonce) == 0 else None


def loaded(bytes options not None):
    """(role, transport, port, nonce) as bpf/option.h reads them from a header's options; or None."""
    cdef bpf_sock_ops s
    cdef hk_option o
    memset(&s, 0, sizeof(s))
    s.len = len(options)
    memcpy(s.opts, <const char *>options, s.len)
    if hk_option_load(&s, &o, 0) != 0:
        return None
    return hk_option_role(&o), o.transport, o.port_be >> 8 | (o.port_be & 255) << 8, o.nonce


def nonces(bytes server_secret not None, bytes client_secret not None, bytes key not None, first, second):
    """(server's, client's) nonce as bpf/option.h makes them: of an hk_key; the client's nonce, or socket and time."""
    cdef hk_config c
    cdef hk_key k
    memset(&c, 0, sizeof(c))
    memcpy(c.server_secret, <const char *>server_secret, sizeof(c.server_secret))
    memcpy(c.client_secret, <const char *>client_secret, sizeof(c.client_secret))
    memcpy(&k, <const char *>key, sizeof(k))
    return hk_server_nonce(&c, &k, first), hk_client_nonce(&c, &k, first, second)
