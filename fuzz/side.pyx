"""An endpoint, and an application that does anything at any time and checks what it is told."""

from libc.stdio cimport printf
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strcmp, strlen
from hooker.vtl.endpoint cimport *
from hooker.vtl.wire cimport DATA_HEADER
from fuzz.input cimport next16, next8

cdef enum:
    IOVS = 128
    DGRAMS = 32
    SCRATCH = 8192

cdef const char *NAMES[5]
NAMES[:] = [b"cubic", b"newreno", b"fixed", b"bbr", b"auto"]
cdef const char *FUNCTIONS[5]
FUNCTIONS[:] = [b"selective-repeat", b"go-back-n", b"stop-and-wait", b"none", b"partial"]
cdef const char *broken = NULL
cdef bint tracing = False
cdef uint8_t bytes_of[PATTERN + MAX_WRITE]


cdef void fail(const char *what) noexcept nogil:
    global broken
    if broken == NULL:
        broken = what

cdef const char *failure() noexcept nogil:
    return broken

cdef void forget_failure() noexcept nogil:
    global broken
    broken = NULL


def trace(bint on):
    """Prints what happens from now on."""
    global tracing
    tracing = on


cdef void say(const Side *k, const char *what, const Flow *f, uint64_t n) noexcept nogil:
    if tracing:
        printf("%u %-9s flow %s%u  %lu\n", k.addr.ip[15], what, b"+" if f != NULL and f.local else b"-",
               f.nonce if f != NULL else 0, n)


cdef void make_pattern() noexcept nogil:
    cdef uint64_t x = 1
    cdef uint32_t i
    for i in range(PATTERN):
        x = x * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        bytes_of[i] = x >> 56
    memcpy(bytes_of + PATTERN, bytes_of, MAX_WRITE)


cdef inline const uint8_t *pattern(uint32_t nonce, bint there, uint64_t offset) noexcept nogil:
    return bytes_of + ((nonce * 7919 + (4001 if there else 0) + offset) & (PATTERN - 1))


# --- callbacks

cdef inline Side *K(void *ctx) noexcept nogil:
    return <Side *>ctx

cdef inline Flow *F(vtl_stream *s) noexcept nogil:
    return <Flow *>vtl_stream_user(s)

cdef Flow *known(vtl_stream *s) noexcept nogil:
    cdef Flow *f = F(s)
    if f != NULL and f.closed:
        fail("a callback after closed()")
    return f


cdef void on_random(void *ctx, uint8_t *out, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        K(ctx).random = K(ctx).random * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        out[i] = K(ctx).random >> 56


cdef void on_up(void *ctx, vtl_assoc *a) noexcept nogil:
    K(ctx).ups += 1


cdef void on_down(void *ctx, vtl_assoc *a, uint32_t reason) noexcept nogil:
    K(ctx).downs += 1
    say(K(ctx), b"down", NULL, reason)


cdef Flow *place_for(Side *k, uint64_t nonce) noexcept nogil:
    cdef uint32_t i
    if k.honest:
        i = <uint32_t>(nonce - 1)
        return &k.theirs[i] if i < MAX_FLOWS and not k.theirs[i].used else NULL
    for i in range(MAX_FLOWS):
        if not k.theirs[i].used or k.theirs[i].closed:
            memset(&k.theirs[i], 0, sizeof(Flow))
            return &k.theirs[i]
    return NULL


cdef void on_opened(void *ctx, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    cdef Side *k = K(ctx)
    cdef Flow *f
    if F(s) != NULL:
        fail("a flow was opened twice")
        return
    f = place_for(k, info.locator)
    if f == NULL:                               # an engine knows each connection once
        vtl_reject(s, 1)
        return
    f.used = True
    f.s = s
    f.nonce = <uint32_t>info.locator
    say(k, b"opened", f, info.committed)
    vtl_stream_set_user(s, f)
    if k.reflexes & R_ACCEPT:
        f.answered = f.accepted = True
        vtl_accept(s, f)


cdef void on_accepted(void *ctx, vtl_stream *s) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"accepted", F(s), 0)
    if f == NULL or not f.local or f.accepted or f.ended:
        fail("accepted() out of turn")
        return
    f.accepted = True
    if K(ctx).reflexes & R_CONFIRM:
        f.confirmed = True
        vtl_confirm(s)


cdef void on_rejected(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"rejected", F(s), code)
    if f == NULL or not f.local or f.accepted or f.ended or f.reset_in:
        fail("rejected() out of turn")
        return
    f.rejected = f.ended = True


cdef void on_confirmed(void *ctx, vtl_stream *s) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"confirmed", F(s), 0)
    if f == NULL:
        return
    if f.local or not f.accepted or f.confirmed or f.ended:
        fail("confirmed() out of turn")
    f.confirmed = True


cdef void on_cancelled(void *ctx, vtl_stream *s) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"cancelled", F(s), 0)
    if f == NULL:
        return
    if f.cancelled or f.ended or f.reset_in:
        fail("cancelled() out of turn")
    f.cancelled = f.ended = True


cdef void on_data(void *ctx, vtl_stream *s, const uint8_t *data, size_t n, bint stable) noexcept nogil:
    cdef Side *k = K(ctx)
    cdef Flow *f = known(s)
    cdef size_t part, at = 0
    say(K(ctx), b"data", F(s), n)
    if f == NULL or n == 0 or not f.accepted or f.fin_in or f.ended or f.reset_in:
        fail("data() out of turn")
        return
    if not f.local and not f.confirmed:
        fail("data() before confirmed()")
    while k.honest and at < n:
        part = min(n - at, <size_t>MAX_WRITE)
        if memcmp(data + at, pattern(f.nonce, not f.local, f.received + at), part) != 0:
            fail("other bytes than were written")
        at += part
    f.received += n
    f.unconsumed += n
    if f.unconsumed > k.cfg.stream_window_max:
        fail("more bytes than the stream's window")
    k.calls += 1
    if k.reflexes & R_CONSUME:
        consume(f, f.unconsumed)
    if k.reflexes & R_RESET and k.calls % 8 == 0:
        f.ended = True
        vtl_reset(s, 5)


cdef void on_fin(void *ctx, vtl_stream *s) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"fin", F(s), 0)
    if f == NULL or f.fin_in or f.ended or f.reset_in:
        fail("fin() out of turn")
        return
    f.fin_in = True
    if K(ctx).reflexes & R_FIN:
        fin(f)


cdef void on_reset(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"reset", F(s), code)
    if f == NULL:
        return
    if f.reset_in or f.ended:
        fail("reset() out of turn")
    f.reset_in = f.ended = True


cdef void on_acked(void *ctx, vtl_stream *s, size_t n) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"acked", F(s), n)
    if f == NULL:
        return
    f.acked += n
    if f.acked > f.written:
        fail("acked() for bytes that were not written")
    if K(ctx).reflexes & R_WRITE and f.written < 4 * MAX_WRITE:
        write(f, 100)


cdef void on_release(void *ctx, void *owner, size_t n) noexcept nogil:
    cdef Flow *f = <Flow *>owner
    cdef Chan *c = <Chan *>owner
    if &K(ctx).channel[0] <= c < &K(ctx).channel[MAX_CHANNELS]:
        c.released += n
        if c.released > c.lent or n == 0:
            fail("release() of bytes that no block lent")
        return
    f.released += n
    if f.released > f.written + f.wasted or n == 0:
        fail("release() of bytes that were not lent")


cdef void on_closed(void *ctx, vtl_stream *s) noexcept nogil:
    cdef Flow *f = known(s)
    say(K(ctx), b"closed", F(s), 0)
    if f == NULL:
        return
    f.closed = True
    f.s = NULL
    if f.released != f.written + f.wasted:
        fail("closed() with bytes still lent")
    if not f.ended and not (f.fin_in and f.fin_out and f.acked == f.written):
        fail("closed() before both directions were done")


# --- channels

cdef void on_block(void *ctx, vtl_assoc *a, const vtl_block *b, bint stable) noexcept nogil:
    cdef Side *k = K(ctx)
    say(k, b"block", NULL, b.n)
    if b.flags & ~VTL_BLOCK_FLAGS:
        fail("flags that no block carries")
    if k.honest and b.n > 0:
        if b.epoch != b.id & 255:
            fail("a block of another epoch")
        if b.n > MAX_WRITE or memcmp(b.data, pattern(b.id, False, b.position), b.n) != 0:
            fail("other bytes than the block's")
    if k.reflexes & R_CONSUME and k.channel[0].c != NULL:
        vtl_channel_report(k.channel[0].c)


cdef void on_hole(void *ctx, vtl_assoc *a, const vtl_block *b) noexcept nogil:
    say(K(ctx), b"hole", NULL, b.n)
    if b.data != NULL or not 0 < b.n <= 0xffff or b.flags & ~VTL_BLOCK_FLAGS:
        fail("a hole that no block leaves")
    if strcmp(vtl_reliability(a), b"partial") != 0:
        fail("a hole that cannot be")


cdef void on_message(void *ctx, vtl_assoc *a, const uint8_t *p, size_t n) noexcept nogil:
    cdef Side *k = K(ctx)
    say(k, b"message", NULL, n)
    if not 0 < n <= VTL_MAX_MESSAGE or (k.honest and p[0] != n):
        fail("another message than was said")
    if k.reflexes & R_WRITE and k.echoes < MAX_ECHOES:
        k.echoes += 1
        vtl_say(a, p, <uint32_t>n)


cdef uint32_t on_report(void *ctx, void *user, uint8_t *out) noexcept nogil:
    cdef Side *k = K(ctx)
    cdef uint32_t n
    k.calls += 1
    n = k.calls % (VTL_MAX_MESSAGE + 1)
    memset(out, n, n)
    return n


cdef void on_channel_down(void *ctx, void *user, uint32_t reason) noexcept nogil:
    cdef Chan *c = <Chan *>user
    if c.c == NULL or c.down:
        fail("channel_down() out of turn")
        return
    c.down = True
    if K(ctx).reflexes & R_RESET:
        close_channel(c)


cdef void close_channel(Chan *c) noexcept nogil:
    vtl_channel_close(c.c)
    c.c = NULL


cdef void open_channel(Side *k, Chan *c, vtl_assoc *a) noexcept nogil:
    if c.c != NULL or a == NULL:
        return
    c.c = vtl_channel_open(a, c)
    c.down = False
    k.channels += 1
    c.id = k.channels
    c.position = <uint32_t>0 - 500 if k.channels & 1 else k.channels


cdef void send_block(Chan *c, uint32_t n, uint8_t flags) noexcept nogil:
    """Channels' bytes are a function of the id, so that two places never mean one."""
    cdef vtl_block b
    b.id = c.id
    b.position = c.position
    b.epoch = c.id & 255
    b.flags = flags
    b.n = n
    b.data = pattern(c.id, False, c.position)
    if vtl_channel_send(c.c, &b, c) == 0:
        c.lent += n
        c.position += n
    elif vtl_channel_unacked(c.c) == 0 and not c.down and vtl_channel_assoc(c.c) == NULL:
        fail("an association that is down, and channel_down() was not called")


cdef void channel_act(Side *k, Input *i, uint8_t which, const vtl_addr *peer, uint64_t now) noexcept nogil:
    """One thing an engine does with a channel."""
    cdef Chan *c = &k.channel[which >> 3 & (MAX_CHANNELS - 1)]
    cdef uint8_t word[VTL_MAX_MESSAGE + 4]
    cdef uint8_t n
    which &= 7
    if which == 0:
        open_channel(k, c, vtl_connect(k.ep, peer, now))
        return
    if c.c == NULL:
        return
    if which < 3:
        send_block(c, next16(i), next8(i) if which == 1 else 0)
    elif which == 3 or which == 4:
        n = next8(i) % (VTL_MAX_MESSAGE + 4)
        memset(word, n, sizeof(word))
        if which == 3:
            vtl_channel_say(c.c, word, n)
        elif vtl_channel_assoc(c.c) != NULL:
            vtl_say(vtl_channel_assoc(c.c), word, n)
    elif which == 5:
        vtl_channel_report(c.c)
    elif which == 6:
        send_block(c, 1, 0)
        send_block(c, 3, 1)
        send_block(c, 0, 1)
    else:
        close_channel(c)


cdef void finish_channels(Side *k) noexcept nogil:
    cdef uint32_t i
    for i in range(MAX_CHANNELS):
        if k.channel[i].c != NULL and (k.channel[i].down or vtl_channel_unacked(k.channel[i].c) == 0):
            close_channel(&k.channel[i])


# --- life

cdef bint side_init(Side *k, uint64_t seed, Input *i) noexcept nogil:
    """Takes six bytes of configuration."""
    cdef vtl_sink sink
    cdef uint8_t pick
    cdef const char *name
    if bytes_of[1] == bytes_of[2]:
        make_pattern()
    memset(k, 0, sizeof(Side))
    k.random = seed
    k.addr.ip[10] = k.addr.ip[11] = 255
    k.addr.ip[15] = <uint8_t>seed
    k.addr.port = 4000 + <uint16_t>seed
    k.cfg.max_datagram = 1200 + next8(i)
    k.cfg.stream_window = <uint64_t>256 << (next8(i) & 15)
    pick = next8(i)
    k.cfg.assoc_window = k.cfg.stream_window << (pick & 3)
    k.cfg.first_datagram = 1200 if pick & 0x80 else 0   # then the rest has to be searched for
    k.cfg.versions[0] = 2 if pick & 0x40 else 1
    k.cfg.versions[1] = 1
    k.cfg.n_versions = 2 if pick & 0xc0 == 0x40 else 1
    if pick & 0x0c == 0x0c:                     # with a key, all zeros, changed every few packets
        k.cfg.keys = 1
        k.cfg.key_update_after = 8
        k.cfg.versions[0] = 0x101 + (pick >> 6) % 3
        k.cfg.n_versions = 1
    k.cfg.stream_window_max = k.cfg.stream_window << (pick >> 4 & 3)
    k.cfg.assoc_window_max = k.cfg.assoc_window << (pick >> 4 & 3)
    k.cfg.window_budget = 1 << 20
    k.cfg.fec = 1
    k.cfg.channel_queue = k.cfg.stream_window
    k.cfg.max_ack_delay = 5000000
    k.cfg.keepalive = 1000000000
    k.cfg.dead_after = 5000000000
    k.cfg.idle_after = 6000000000
    k.cfg.handshake_timeout = 10000000000
    pick = next8(i)
    name = NAMES[pick % 5]
    memcpy(k.cfg.congestion, name, strlen(name))
    name = FUNCTIONS[pick // 25 % 5]
    memcpy(k.cfg.reliability, name, strlen(name))
    k.cfg.accepts = 0xffffffff
    k.cfg.repeats = pick & 3
    k.cfg.window = (pick & 7) * 3
    k.reflexes = next8(i)
    pick = next8(i)
    k.batch.dgram_cap = 1 + pick % DGRAMS
    k.batch.iov_cap = 4 + (pick >> 1) % (IOVS - 4)
    k.batch.scratch_cap = 2048 + (pick & 3) * 2048
    k.batch.dgram = <vtl_datagram *>malloc(k.batch.dgram_cap * sizeof(vtl_datagram))
    k.batch.iov = <iovec *>malloc(k.batch.iov_cap * sizeof(iovec))
    k.batch.scratch = <uint8_t *>malloc(k.batch.scratch_cap)
    k.batch.sealed_cap = DGRAMS * k.cfg.max_datagram
    k.batch.sealed = <uint8_t *>malloc(k.batch.sealed_cap)
    memset(&sink, 0, sizeof(sink))
    sink.ctx = k
    sink.random = on_random
    sink.assoc_up = on_up
    sink.assoc_down = on_down
    sink.opened = on_opened
    sink.accepted = on_accepted
    sink.rejected = on_rejected
    sink.confirmed = on_confirmed
    sink.cancelled = on_cancelled
    sink.data = on_data
    sink.fin = on_fin
    sink.reset = on_reset
    sink.acked = on_acked
    sink.release = on_release
    sink.closed = on_closed
    sink.block = on_block
    sink.message = on_message
    sink.hole = on_hole
    sink.report = on_report
    sink.channel_down = on_channel_down
    k.ep = vtl_endpoint_new(&k.cfg, &sink)
    return (k.ep != NULL and k.batch.dgram != NULL and k.batch.iov != NULL and k.batch.scratch != NULL
            and k.batch.sealed != NULL)


cdef bint lends(const Side *k) noexcept nogil:
    cdef uint32_t i
    for i in range(MAX_FLOWS):
        if k.own[i].released != k.own[i].written + k.own[i].wasted:
            return True
        if k.theirs[i].released != k.theirs[i].written + k.theirs[i].wasted:
            return True
    for i in range(MAX_CHANNELS):
        if k.channel[i].released != k.channel[i].lent:
            return True
    return False


cdef void side_free(Side *k) noexcept nogil:
    if k.ep != NULL:
        vtl_endpoint_free(k.ep)
        k.ep = NULL
        if lends(k):
            fail("the endpoint is gone and bytes are still lent")
    free(k.batch.dgram)
    free(k.batch.iov)
    free(k.batch.scratch)
    free(k.batch.sealed)


# --- the application

cdef void write(Flow *f, uint32_t n) noexcept nogil:
    if f.s == NULL or n == 0:
        return
    if f.fin_out or f.ended:
        f.wasted += n
        vtl_write(f.s, bytes_of, n, f)
        return
    f.written += n
    if vtl_write(f.s, pattern(f.nonce, f.local, f.written - n), n, f) < 0:
        f.written -= n


cdef void fin(Flow *f) noexcept nogil:
    """An opener confirms before it ends, as engines do: else the other would wait for ever."""
    if not f.fin_out and not f.ended and (f.confirmed or not f.local):
        f.fin_out = True
        vtl_fin(f.s)


cdef void open_flow(Side *k, vtl_assoc *a, bint committed, uint64_t now) noexcept nogil:
    cdef vtl_open_info info
    cdef Flow *f
    if k.opened == MAX_FLOWS or a == NULL:
        return
    f = &k.own[k.opened]
    memset(&info, 0, sizeof(info))
    info.locator = k.opened + 1
    info.committed = committed
    f.s = vtl_open(a, &info, f, now)
    if f.s == NULL:
        return
    k.opened += 1
    f.used = f.local = True
    f.confirmed = committed
    f.nonce = k.opened


cdef Flow *pick_flow(Side *k, uint8_t which) noexcept nogil:
    cdef Flow *f = &k.own[which & 15] if which & 128 == 0 else &k.theirs[which & 15]
    return f if f.used and f.s != NULL else NULL


cdef void side_act(Side *k, Input *i, const vtl_addr *peer, uint64_t now) noexcept nogil:
    """One thing an application or its engine does; three bytes or more."""
    cdef uint8_t what = next8(i) % 12
    cdef uint8_t which = next8(i)
    cdef Flow *f
    if what == 0:
        vtl_connect(k.ep, peer, now)
        return
    if what == 1:
        open_flow(k, vtl_connect(k.ep, peer, now), which & 1, now)
        return
    if what == 2:
        if which == 255:
            vtl_close(vtl_connect(k.ep, peer, now), 3, now)
        elif which == 254:
            vtl_path_error(k.ep, peer, NULL, 0, now)
        else:
            channel_act(k, i, which, peer, now)
        return
    f = pick_flow(k, which)
    if f == NULL:
        return
    if what == 3 or what == 4:
        write(f, next16(i))
    elif what == 5:
        fin(f)
    elif what == 6:
        answer(f, next8(i) > 250)
    elif what == 7 and f.local and f.accepted:
        f.confirmed = True
        vtl_confirm(f.s)
    elif what == 8:
        consume(f, next16(i))
    elif what == 9:
        f.ended = True
        vtl_reset(f.s, next8(i))
    elif what == 10 and f.local:
        f.ended = True
        vtl_cancel(f.s)
    elif what == 11:
        k.reflexes = next8(i)


cdef void answer(Flow *f, bint refuse) noexcept nogil:
    if f.local or f.answered or f.ended:
        return
    f.answered = True
    if refuse:
        f.rejected = f.ended = True
        vtl_reject(f.s, 2)
    else:
        f.accepted = True
        vtl_accept(f.s, f)


cdef void consume(Flow *f, uint64_t n) noexcept nogil:
    n = min(n, f.unconsumed)
    f.unconsumed -= n
    vtl_consumed(f.s, n)


cdef void finish_flow(Flow *f) noexcept nogil:
    if f.s == NULL:
        return
    answer(f, False)
    if f.s != NULL and f.local and f.accepted and not f.confirmed:
        f.confirmed = True
        vtl_confirm(f.s)
    consume(f, f.unconsumed)
    fin(f)


cdef void side_finish(Side *k) noexcept nogil:
    cdef uint32_t i
    k.reflexes = R_ACCEPT | R_CONFIRM | R_CONSUME
    for i in range(MAX_FLOWS):
        finish_flow(&k.own[i])
        finish_flow(&k.theirs[i])
    finish_channels(k)


cdef uint32_t side_open_flows(const Side *k) noexcept nogil:
    cdef uint32_t i, n = 0
    for i in range(MAX_FLOWS):
        n += (k.own[i].s != NULL) + (k.theirs[i].s != NULL)
    for i in range(MAX_CHANNELS):
        n += k.channel[i].c != NULL and not k.channel[i].down
    return n


cdef void side_check(const Side *k) noexcept nogil:
    if lends(k):
        fail("all flows are closed and bytes are still lent")


# --- datagrams

cdef bint side_build(Side *k, uint64_t now) noexcept nogil:
    cdef vtl_batch *b = &k.batch
    cdef uint32_t i, j, size
    b.iov_len = b.dgram_len = b.scratch_len = b.sealed_len = 0
    if vtl_build(k.ep, b, now) == 0:
        return False
    if b.dgram_len > b.dgram_cap or b.iov_len > b.iov_cap or b.scratch_len > b.scratch_cap:
        fail("a batch beyond its capacity")
    for i in range(b.dgram_len):
        size = 0
        for j in range(b.dgram[i].first, b.dgram[i].first + b.dgram[i].count):
            size += <uint32_t>b.iov[j].iov_len
        if size != b.dgram[i].size or size < DATA_HEADER or size > k.cfg.max_datagram:
            fail("a datagram of a wrong size")
    return True


cdef uint32_t datagram_copy(const Side *k, uint32_t i, uint8_t *out) noexcept nogil:
    """The datagram's bytes; returns their number."""
    cdef const vtl_batch *b = &k.batch
    cdef uint32_t j, n = 0
    for j in range(b.dgram[i].first, b.dgram[i].first + b.dgram[i].count):
        memcpy(out + n, b.iov[j].iov_base, b.iov[j].iov_len)
        n += <uint32_t>b.iov[j].iov_len
    if tracing:
        show(k, out, n)
    return n


cdef void show(const Side *k, const uint8_t *data, uint32_t n) noexcept nogil:
    cdef uint32_t i
    printf("%u sends %4u ", k.addr.ip[15], n)
    for i in range(min(n, 80)):
        printf("%02x%s", data[i], b" " if i % 4 == 3 else b"")
    printf("\n")
