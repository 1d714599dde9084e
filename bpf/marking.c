/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sock_ops: sets the mark and takes it away, when the engine's `want` says so.
 *
 * The kernel asks about header options before each segment that a socket sends, and whenever it works out the segments'
 * size: before it looks up the route. So the mark is there for that very segment. We have no option to write then. A
 * socket that sends nothing is as it was; any acknowledgement will do. Minisockets (TIME_WAIT) ask nobody.
 */

static __always_inline void hk_record_init(struct hk_flow *f, u64 id)
{
	f->flow_id = id;
	f->marked = f->marks = f->ts_recent = f->mss = f->app_closed = f->steered = 0;
	f->want = HK_WANT_TCP;		/* the engine's from now on */
	f->hold = HK_HOLD_NONE;
	f->burst = 0;
	f->control = HK_CONTROL_NONE;
#ifdef HK_REDIRECTS
	hk_redirect_init(id);
#endif
}

/* Whether new flows are held. */
static __always_inline int hk_holds(void)
{
	struct hk_config *c = hk_config();

	return c && c->hold;
}

/* HK_HOLD_*. Once a flow's payload may go anywhere, it always may; a pinned flow that the engine has forgotten ends held. */
static __always_inline u32 hk_hold_of(struct hk_sock *st)
{
	struct hk_flow *f;
	u32 hold;

	if (!st->held)
		return HK_HOLD_NONE;
	f = hk_flow_of(st);
	if (!f)
		return st->pinned ? HK_HOLD_WIRE : HK_HOLD_NONE;
	hold = *(volatile u32 *)&f->hold;
	if (hold == HK_HOLD_NONE)
		st->held = 0;
	return hold;
}

static __always_inline int hk_is_pinned(struct hk_sock *st)
{
	return st->pinned && hk_hold_of(st) != HK_HOLD_NONE;
}

static __always_inline void hk_emit_steered(struct hk_sock *st, u32 why)
{
	struct hk_event *e;

	hk_count(why == HK_STEERED_SIGNED ? HK_C_SIGNED : why == HK_STEERED_REPAIR ? HK_C_REPAIR :
		 why == HK_STEERED_STALLED ? HK_C_STALLED : HK_C_STEERED);
	e = hk_event_new(HK_EVENT_STEERED);
	if (!e) {
		hk_event_lost();
		return;
	}
	e->slot = st->slot;
	e->flow_id = st->flow_id;
	hk_submit(e, 1);
}

struct hk_numbers {
	u32 snd_una, snd_nxt, rcv_nxt, snd_wnd, rcv_wnd, ts_recent, mss;
};

/* getsockopt() shows it while segments go by our device. One that was marked before and has sent nothing since has ours. */
static __always_inline void hk_note_path(struct hk_config *c, struct bpf_sock *sk, struct hk_sock *st)
{
	void *tp = bpf_skc_to_tcp_sock(sk);
	u32 pmtu = tp ? *(volatile u32 *)(tp + HK_TCP_PMTU) : 0;

	if (pmtu != c->device_mtu)
		st->pmtu = pmtu;
}

/* Where the connection stands: what the engine begins from, whatever went by TCP before. */
static __always_inline int hk_numbers_of(struct bpf_sock_ops *s, struct bpf_sock *sk, struct hk_numbers *f)
{
	void *tp = bpf_skc_to_tcp_sock(sk);
	u32 edge;

	if (!tp)
		return -1;
	edge = *(volatile u32 *)(tp + HK_TCP_RCV_WUP) + *(volatile u32 *)(tp + HK_TCP_RCV_WND);
	f->snd_una = s->snd_una;
	f->snd_nxt = s->snd_nxt;
	f->rcv_nxt = s->rcv_nxt;
	f->snd_wnd = *(volatile u32 *)(tp + HK_TCP_SND_WND);
	f->rcv_wnd = (s32)(edge - f->rcv_nxt) > 0 ? edge - f->rcv_nxt : 0;
	f->ts_recent = *(volatile u32 *)(tp + HK_TCP_TS_RECENT);
	f->mss = s->mss_cache;
	return 0;
}

/* The engine reads them whenever it likes: what it reads counts if `marks` was even before and is the same after. */
static __always_inline void hk_note_numbers(struct hk_flow *f, struct hk_numbers *n)
{
	__sync_fetch_and_add(&f->marks, 1);	/* a full barrier, as the next one */
	f->snd_una = n->snd_una;
	f->snd_nxt = n->snd_nxt;
	f->rcv_nxt = n->rcv_nxt;
	f->snd_wnd = n->snd_wnd;
	f->rcv_wnd = n->rcv_wnd;
	f->ts_recent = n->ts_recent;
	f->mss = n->mss;
	__sync_fetch_and_add(&f->marks, 1);
}

#define HK_TCP_BPF_IW 1001

/*
 * The segments of a socket that is marked before it has sent any go by a transport that knows its path, so its slow start
 * would only be a second one. The kernel refuses it later; it does not matter.
 */
static __always_inline void hk_begin_wide(struct bpf_sock_ops *s, struct hk_flow *f)
{
	int burst = *(volatile u32 *)&f->burst;

	if (burst)
		bpf_setsockopt(s, HK_SOL_TCP, HK_TCP_BPF_IW, &burst, sizeof(burst));
}

static __always_inline int hk_keeps_control(struct hk_flow *f)
{
	return *(volatile u32 *)&f->control == HK_CONTROL_OWN;
}

static __always_inline int hk_is_free(struct hk_flow *f)
{
	return *(volatile u32 *)&f->control == HK_CONTROL_NONE;
}

static __always_inline void hk_mark(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st,
				    struct hk_flow *f)
{
	struct bpf_sock *sk = s->sk;
	struct hk_numbers n;

	if (!sk)
		return;
	if (sk->mark || sk->bound_dev_if) {	/* since ESTABLISHED, and by no setsockopt() that we saw */
		f->steered = HK_STEERED_ROUTE;
		hk_emit_steered(st, HK_STEERED_ROUTE);
		return;
	}
	hk_note_path(c, sk, st);
	if (hk_numbers_of(s, sk, &n) || hk_set_mark(s, c->mark))
		return;				/* tried again with the next segment */
	if (!hk_keeps_control(f))
		hk_congestion_reno(s, st);
	if (hk_is_free(f))
		hk_congestion_widen(s);
	hk_begin_wide(s, f);
	hk_note_numbers(f, &n);
	f->marked = 1;
	hk_cb_marked(s, HK_CB_MARKED);
	hk_count(HK_C_SOCKET_MARKED);
}

/*
 * The mark of a pinned flow is there from the beginning: by it the janitor finds the sockets whose engine was killed. The
 * handshake's last ACK comes by the device already, and the engine puts it on the wire.
 */
static __always_inline void hk_keep_back(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st,
					 struct hk_flow *f)
{
	f->hold = HK_HOLD_ALL;
	st->held = 1;
	st->sent_ns = bpf_ktime_get_ns();
	hk_count(HK_C_HELD);
	if (!c->pinned)
		return;
	st->pinned = 1;
	f->want = HK_WANT_MARK;
	hk_mark(s, c, st, f);
}

/* The service is warm, and the engine that has answered the SYN is the one that we know. */
static __always_inline void hk_begin_early(struct hk_sock *st, struct hk_flow *f, struct hk_event *e)
{
	struct hk_warm *warm;
	struct hk_peer p = {};

	if (st->role != HK_ROLE_CLIENT || !e->server_nonce || hk_is_blocked(&e->key) || hk_is_crowded())
		return;
	__builtin_memcpy(p.ip, e->key.remote_ip, 16);
	p.port = e->key.remote_port;
	warm = hk_warm.lookup(&p);
	if (!warm || warm->instance != (u16)e->server_nonce || warm->since > bpf_ktime_get_ns())
		return;
	st->early = 1;
	f->want = HK_WANT_MARK;
	e->early = 1;
	e->cooled = warm->cooled;
	hk_count(HK_C_EARLY);
}

/* bbr's pacing cannot be turned off once it has begun: where the flow may be engaged soon, it does not begin. */
static __always_inline void hk_begin(struct bpf_sock_ops *s, struct hk_sock *st, struct hk_event *e)
{
	struct hk_config *c = hk_config();
	struct hk_flow *f = hk_flow_of(st);

	if (e->server_nonce || st->role == HK_ROLE_SERVER)
		hk_congestion_reno(s, st);
	hk_count(HK_C_FLOW);
	if (c && f && c->hold)
		hk_keep_back(s, c, st, f);
	else if (f)
		hk_begin_early(st, f, e);
}

/* It may come by the wire, also while the engine stands still: what says an older one is dropped (PAWS). */
static __always_inline void hk_note_clock(struct bpf_sock_ops *s, struct hk_flow *f)
{
	struct bpf_sock *sk = s->sk;
	void *tp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	u32 now = tp ? *(volatile u32 *)(tp + HK_TCP_TS_RECENT) : 0;

	if (now && now != f->ts_recent)
		f->ts_recent = now;
}

/* Before each segment of a marked socket. */
static __always_inline void hk_note_marked(struct bpf_sock_ops *s, struct hk_flow *f)
{
	hk_note_clock(s, f);
	if (hk_is_free(f))
		hk_congestion_widen(s);		/* what was lost by the wire is noticed behind the mark, too */
}

/* Whether it has gone, or another one was there. */
static __always_inline int hk_take_mark(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st)
{
	struct bpf_sock *sk = s->sk;
	u32 mark;

	if (!sk)
		return 0;
	mark = sk->mark;
	return !hk_is_our_mark(c, mark) || !hk_set_mark(s, hk_app_mark(st, mark));
}

static __always_inline void hk_unmark(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st,
				      struct hk_flow *f)
{
	if (!hk_take_mark(s, c, st))
		return;
	f->marked = 0;
	hk_cb_marked(s, 0);
	hk_count(HK_C_SOCKET_UNMARKED);
}

/* 0: nobody says */
static __always_inline u64 hk_looked(void)
{
	u32 zero = 0;
	struct hk_attention *a = hk_attention.lookup(&zero);

	return a ? *(volatile u64 *)&a->looked : 0;
}

/*
 * The engine does not run, though a segment has woken it: it was stopped, or starves. By the wire the connection goes on at
 * once. Asked before each segment of a marked socket; not for the size of one, which may never come.
 */
static __always_inline int hk_is_stalled(struct hk_sock *st)
{
	u64 looked = hk_looked(), now;

	if (!looked)
		return 0;
	now = bpf_ktime_get_ns();
	if (st->sent_ns <= looked)
		st->sent_ns = now;
	return now - st->sent_ns > HK_STALLED_NS;
}

/*
 * The queue of our device is full, again and again: the engine is too slow for a crowd. The kernel tries a segment that could not
 * begin each 0.5 s, as if it probed a window, and gives the connection up (ETIMEDOUT) after tcp_retries2 of them: 7.5 s. A crowd
 * tries all at once, and the queue behind the wire is shorter (1,000 packets): it goes there bit by bit, by its slots, and has two of
 * five tries left there at least.
 */
static __always_inline int hk_is_refused(struct bpf_sock_ops *s, struct hk_sock *st)
{
	void *tp = s->sk ? bpf_skc_to_tcp_sock(s->sk) : 0, *net;
	u32 tries, most;

	if (!tp || !*(volatile u32 *)(tp + HK_TCP_SND_WND) || s->snd_una != s->snd_nxt)
		return 0;
	tries = *(volatile u8 *)(tp + HK_TCP_PROBES_OUT);
	if (tries < HK_REFUSED)
		return 0;
	net = *(void * volatile *)(tp + HK_SOCK_NET);
	most = net ? *(volatile u8 *)(net + HK_NET_TCP_RETRIES2) * 3 / 5 : 0;
	if (most > HK_REFUSED_MOST)
		most = HK_REFUSED_MOST;
	return most <= HK_REFUSED || tries >= HK_REFUSED + (st->slot * 2654435761u >> 16) % (most - HK_REFUSED + 1);
}

static __always_inline void hk_leave_stalled(struct bpf_sock_ops *s, struct hk_sock *st, struct hk_flow *f)
{
	if (f->steered || hk_is_pinned(st) || (!hk_is_stalled(st) && !hk_is_refused(s, st)))
		return;
	f->steered = HK_STEERED_STALLED;
	hk_emit_steered(st, HK_STEERED_STALLED);
}

/* The record is another flow's, or nobody's: the engine has forgotten this one. */
static __always_inline void hk_let_go(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st)
{
	if (s->sk && !hk_take_mark(s, c, st))
		return;
	hk_congestion_restore(s, st);
	hk_cb_flags(s, 0);
}

static __always_inline u32 hk_want_of(struct hk_config *c, struct hk_sock *st, struct hk_flow *f)
{
	if (hk_is_pinned(st))
		return HK_WANT_MARK;
	return f->steered || c->closing ? HK_WANT_NEVER : *(volatile u32 *)&f->want;
}

/*
 * The kernel asks nothing of us before a segment whose option space is full: a socket that lacks three ranges says so in each. It
 * would keep its mark where its engine stands still, for what it says is read by nobody, and so nobody fills the holes. So it is
 * asked at its timeouts, too. What sends nothing has none: the janitor looks for those (hk_release).
 */
static __always_inline void hk_look_again(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	struct hk_sock *st = hk_socks.sk_storage_get(sk, 0, 0);
	struct hk_flow *f = st ? hk_flow_of(st) : 0;

	if (!st)
		return;
	if (!f) {
		if (st->flow_id && !hk_is_pinned(st))
			hk_let_go(s, c, st);
		return;
	}
	if (!f->marked || st->early)
		return;
	hk_leave_stalled(s, st, f);
	if (hk_want_of(c, st, f) != HK_WANT_MARK)
		hk_unmark(s, c, st, f);
}

/*
 * The handshake's last ACK goes by the wire, alone or with data: only there the server's TCP can take it. The kernel
 * also asks when it has no segment yet, for the size of one.
 */
static __always_inline int hk_ends_handshake(struct bpf_sock_ops *s, struct hk_sock *st)
{
	if (!st->early)
		return 0;
	if (s->args[0] != BPF_WRITE_HDR_TCP_CURRENT_MSS)
		st->early = 0;
	return 1;
}

/*
 * A receiver without a window scale rounds its window to whole segments, of the size that came last. The option makes ours
 * shorter: where that leaves one segment, the first one without it would never fit, and all would wait for the persist timer.
 * (Truesize leaves a small buffer about a third of the window that it began with: HK_ROOMY.)
 * An ACK alone is no such segment; nearly always one ends the handshake.
 */
static __always_inline int hk_option_shortens(struct bpf_sock_ops *s)
{
	void *tp;

	if (s->args[0] != BPF_WRITE_HDR_TCP_CURRENT_MSS && s->skb_len == 0)
		return 0;
	tp = s->sk ? bpf_skc_to_tcp_sock(s->sk) : 0;
	return tp && !(*(volatile u8 *)(tp + HK_TCP_SND_WSCALE) >> HK_TCP_SND_WSCALE_SHIFT & 0xf) &&
	       *(volatile u32 *)(tp + HK_TCP_SND_WND) < HK_ROOMY * s->mss_cache;
}

/*
 * The client's option goes with all it says until the server has said something: any of it may be what ends the server's
 * handshake. The same answer for a segment and for its size, which was asked before.
 */
static __always_inline int hk_segment_option(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st)
{
	struct hk_flow *f = hk_flow_of(st);
	u32 want;

	if (!f) {
		if (st->flow_id && !hk_is_pinned(st))
			hk_let_go(s, c, st);
		return 0;
	}
	if (f->marked && s->args[0] != BPF_WRITE_HDR_TCP_CURRENT_MSS)
		hk_leave_stalled(s, st, f);
	want = hk_want_of(c, st, f);
	if (hk_ends_handshake(s, st))
		return hk_option_shortens(s) ? 0 : st->role;
	if (want == HK_WANT_MARK && !f->marked)
		hk_mark(s, c, st, f);
	else if (want != HK_WANT_MARK && f->marked)
		hk_unmark(s, c, st, f);
	else if (f->marked)
		hk_note_marked(s, f);
	if (f->marked ? hk_keeps_control(f) : want != HK_WANT_MARK && (want != HK_WANT_TCP || hk_congestion_overdue(st)))
		hk_congestion_restore(s, st);
	if (want == HK_WANT_NEVER && !f->marked) {
		hk_cb_flags(s, BPF_SOCK_OPS_STATE_CB_FLAG);
		return 0;
	}
	if (st->role != HK_ROLE_CLIENT || s->snd_una != st->snd_nxt || s->rcv_nxt != st->rcv_nxt)
		return 0;
	return hk_option_shortens(s) ? 0 : HK_ROLE_CLIENT;
}

/* What the server has selected is not asked for again: it keeps no state, and may take others meanwhile. */
static __always_inline void hk_segment_write(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st)
{
	if (st->transport)
		hk_option_ask(s, HK_ROLE_CLIENT, (u32)st->transport << 20, st->client_nonce);
	else
		hk_option_ask(s, HK_ROLE_UNANSWERED, hk_rule(c, st->rule)->offer, st->client_nonce);
}

int hk_intercept(struct bpf_sock_ops *s)
{
	struct hk_config *c;

	if (!hk_concerns_us(s))
		return 1;
	c = hk_config();
	if (c)
		hk_handshake(s, c, s->sk);
	return 1;
}
