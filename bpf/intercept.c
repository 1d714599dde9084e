/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sock_ops of an engine that takes messages: a new flow is held until the peer's engine has agreed. Its client
 * says its option on every ACK while it is held, and once more when it has gone back to TCP.
 */

static __always_inline void hk_record_init(struct hk_flow *f, u64 id)
{
	f->flow_id = id;
	f->redirected = f->spill_at = f->passed = f->held_drops = 0;
	f->mode = HK_MODE_PASS;
	f->marked = f->wire_released = f->spills = f->acked = f->app_closed = f->narrow = 0;
	f->state = HK_STATE_HELD;	/* the engine's from now on */
}

static __always_inline int hk_holds(void)
{
	return 1;
}

static __always_inline struct hk_flow *hk_redirecting(struct hk_sock *st)
{
	struct hk_flow *f = hk_flow_of(st);

	return f && f->state == HK_STATE_ENGAGED && f->marked ? f : 0;
}

/* From here on nothing of the flow's data may reach the wire until the engine has decided. */
static __always_inline void hk_begin(struct bpf_sock_ops *s, struct hk_sock *st, struct hk_event *e)
{
	hk_congestion_reno(s, st, 1);
	hk_count(HK_C_HELD);
}

/* The role this segment's option shall have, 0 for none. Engaged: the moment to mark the socket. */
static __always_inline int hk_segment_option(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st)
{
	struct hk_flow *f = hk_flow_of(st);
	u32 state;

	if (!f) {
		hk_congestion_restore(s, st);
		hk_cb_flags(s, 0);
		return 0;
	}
	state = f->state;
	if (state == HK_STATE_ENGAGED) {
		if (!f->marked) {
			u32 theirs = s->sk ? s->sk->mark : 0;

			if (hk_set_mark(s, c->mark))
				return 0;	/* the egress program drops it; tried again */
			st->app_mark[0] = theirs;
			hk_congestion_reno(s, st, 0);
			f->marked = 1;
		}
		hk_cb_flags(s, BPF_SOCK_OPS_STATE_CB_FLAG);
		return 0;
	}
	if (state != HK_STATE_HELD)
		hk_congestion_restore(s, st);
	else if (st->role == HK_ROLE_CLIENT)
		return HK_ROLE_CLIENT;
	if (st->role == HK_ROLE_CLIENT && state == HK_STATE_RELEASED && s->snd_una == st->snd_nxt)
		return HK_ROLE_RELEASED;
	if (state != HK_STATE_HELD)
		hk_cb_flags(s, BPF_SOCK_OPS_STATE_CB_FLAG);
	return 0;
}

/* A segment with data is held back, and its ACK with it. */
static __always_inline int hk_is_pure_ack(struct bpf_sock_ops *s)
{
	u8 *tcp = (u8 *)(long)s->skb_data;

	if (tcp + 20 > (u8 *)(long)s->skb_data_end)
		return 0;
	return s->skb_len == (tcp[12] >> 4) * 4;
}

static __always_inline void hk_segment_write(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st)
{
	struct hk_flow *f = hk_flow_of(st);

	if (!f)
		return;
	if (f->state == HK_STATE_RELEASED)
		hk_option_store(s, c, HK_ROLE_RELEASED, st->client_nonce);
	else if (!hk_option_store(s, c, HK_ROLE_CLIENT, st->client_nonce) && hk_is_pure_ack(s))
		f->acked = 1;
}

/* The client's word that it went back to TCP: its data follows, ours may go. */
static __always_inline void hk_parse(struct bpf_sock_ops *s, struct bpf_sock *sk)
{
	struct hk_sock *st = hk_socks.sk_storage_get(sk, 0, 0);
	struct hk_option o;
	struct hk_event *e;
	struct hk_flow *f;

	if (!st || st->role != HK_ROLE_SERVER)
		return;
	f = hk_flow_of(st);
	if (!f || f->state != HK_STATE_HELD || f->wire_released)
		return;
	if (hk_option_load(s, &o, 0) || hk_option_role(&o) != HK_ROLE_RELEASED || o.nonce != st->client_nonce)
		return;
	f->wire_released = 1;
	e = hk_event_new(HK_EVENT_WIRE_RELEASED);
	if (!e) {
		hk_event_lost();
		return;
	}
	e->slot = st->slot;
	e->flow_id = st->flow_id;
	hk_submit(e, 1);
}

int hk_intercept(struct bpf_sock_ops *s)
{
	struct bpf_sock *sk = s->sk;
	struct hk_config *c;

	if (!hk_concerns_us(s))
		return 1;
	c = hk_config();
	if (!c)
		return 1;
	if (s->op != BPF_SOCK_OPS_PARSE_HDR_OPT_CB)
		hk_handshake(s, c, sk);
	else if (sk && !c->closing)
		hk_parse(s, sk);
	return 1;
}
