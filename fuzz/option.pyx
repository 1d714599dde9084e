"""The TCP option: what bpf/option.h makes of any TCP header's options, of any list in one, and of what it wrote itself.

The header is the kernel programs' own, compiled for user space; only the kernel's two helpers are stood
in for. Input: flags, then the options.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.includes.hk cimport (
    HK_OFFER_MOST, HK_OPT_EXID, HK_OPT_KIND, HK_OPT_LEN, HK_OPT_VERSION_MESSAGES, HK_ROLE_CLIENT, HK_ROLE_SERVER,
    HK_ROLE_UNANSWERED, hk_key,
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
    unsigned int fuzz_bad_options
    int hk_option_put(bpf_sock_ops *s, uint8_t role, uint8_t transport, uint16_t port, uint64_t nonce)
    int hk_option_ask(bpf_sock_ops *s, uint8_t role, uint32_t offer, uint64_t nonce)
    int hk_option_answer(bpf_sock_ops *s, hk_config *c, uint8_t transport, uint64_t nonce)
    int hk_option_load(bpf_sock_ops *s, hk_option *o, uint64_t flags)
    int hk_option_role(hk_option *o)
    uint32_t hk_option_offer(hk_option *o)
    uint32_t hk_select(uint32_t offer, uint32_t takes)
    int hk_is_offered(uint32_t offer, uint32_t id)
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
    cdef uint8_t role = HK_ROLE_CLIENT + next8(i) % 4      # and one that nobody knows
    cdef uint64_t nonce = <uint64_t>next32(i) << 32 | next32(i)
    cdef uint32_t offer
    cdef int end = s.len, rc
    memset(&c, 0, sizeof(c))
    memset(&k, 0, sizeof(k))
    c.port = next16(i)
    offer = <uint32_t>next8(i) << 16 | c.port
    lists(offer, next16(i))
    if s.no_syn:
        return
    if role == HK_ROLE_CLIENT or role == HK_ROLE_UNANSWERED:
        rc = hk_option_ask(s, role, offer, nonce)
    elif role == HK_ROLE_SERVER:
        rc = hk_option_answer(s, &c, offer >> 16, nonce)
    else:
        rc = hk_option_put(s, role, offer >> 16, c.port, nonce)
    if rc != 0 or find(s) != end:
        return
    if hk_option_load(s, &o, 0) != 0 or hk_option_role(&o) != role or o.nonce != nonce:
        fail("the option does not load as it was stored")
    if hk_option_offer(&o) != offer or o.transport != offer >> 16 or o.port_be != (c.port >> 8 | (c.port & 255) << 8):
        fail("list, transport or port are not those stored")
    if hk_server_nonce(&c, &k, nonce) == 0 or hk_client_nonce(&c, &k, nonce, c.port) == 0:
        fail("a nonce of 0")


cdef void lists(uint32_t offer, uint32_t takes) noexcept nogil:
    """Nothing is selected that was not offered, or is not taken; and what is, is the first of those."""
    cdef uint32_t id, at, found = 0, n = 0
    cdef bint there
    while n < HK_OFFER_MOST and offer >> (20 - 4 * n) & 15:
        n += 1
    for at in range(n):
        id = offer >> (20 - 4 * at) & 15
        if not found and takes & 1 << id:
            found = id
    if hk_select(offer, takes) != found:
        fail("not the first of the list that is taken")
    for id in range(256):
        there = False
        for at in range(n):
            there = there or offer >> (20 - 4 * at) & 15 == id
        if (hk_is_offered(offer, id) != 0) != there:
            fail("something counts as offered that was not, or does not though it was")


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


def asked(bytes before not None, int offer, nonce):
    """The options `before`, and a client's behind them as bpf/option.h writes it, with its list; None: no room."""
    cdef bpf_sock_ops s
    options_of(before, &s)
    return s.opts[:s.len] if hk_option_ask(&s, HK_ROLE_CLIENT, offer, nonce) == 0 else None


def answered(bytes before not None, int transport, int port, nonce):
    """The same with a server's."""
    cdef hk_config c
    cdef bpf_sock_ops s
    memset(&c, 0, sizeof(c))
    c.port = port
    options_of(before, &s)
    return s.opts[:s.len] if hk_option_answer(&s, &c, transport, nonce) == 0 else None


cdef int options_of(bytes options, bpf_sock_ops *s) except -1:
    memset(s, 0, sizeof(s[0]))
    s.len = len(options)
    memcpy(s.opts, <const char *>options, s.len)
    return 0


def selected(int offer, int takes):
    """What a server that takes those, by bits, selects of a list; 0: nothing."""
    return hk_select(offer, takes)


def is_offered(int offer, int id):
    """Whether a client with that list takes that for an answer."""
    return bool(hk_is_offered(offer, id))


def loaded(bytes options not None):
    """(role, list, nonce) as bpf/option.h reads them from a header's options; or None. A server's transport and port
    are where a client has its list."""
    cdef bpf_sock_ops s
    cdef hk_option o
    options_of(options, &s)
    if hk_option_load(&s, &o, 0) != 0:
        return None
    return hk_option_role(&o), hk_option_offer(&o), o.nonce


def nonces(bytes server_secret not None, bytes client_secret not None, bytes key not None, first, second):
    """(server's, client's) nonce as bpf/option.h makes them: of an hk_key; the client's nonce, or socket and time."""
    cdef hk_config c
    cdef hk_key k
    memset(&c, 0, sizeof(c))
    memcpy(c.server_secret, <const char *>server_secret, sizeof(c.server_secret))
    memcpy(c.client_secret, <const char *>client_secret, sizeof(c.client_secret))
    memcpy(&k, <const char *>key, sizeof(k))
    return hk_server_nonce(&c, &k, first), hk_client_nonce(&c, &k, first, second)
