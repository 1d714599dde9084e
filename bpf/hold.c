/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup_skb egress: data and FIN of a held flow stay off the wire. TCP keeps them, unsent, in its own
 * queue. Pure ACKs and RST pass. A segment of an engaged flow without the mark would leave the host:
 * it is dropped, and TCP sends it again once the mark is set.
 */

#define HK_EXTENSIONS 8		/* no stack sends more */
#define HK_PROTO_TCP 6

/* Where TCP's header begins; 0: not found out. Fragments are made later on the way out. */
static __always_inline u32 hk_tcp_at(struct __sk_buff *skb)
{
	u32 at = 40, i;
	u8 h[10];

	if (bpf_skb_load_bytes(skb, 0, h, sizeof(h)))
		return 0;
	if (h[0] >> 4 == 4)
		return h[9] == HK_PROTO_TCP ? (h[0] & 0xf) * 4 : 0;
	h[0] = h[6];
#pragma unroll
	for (i = 0; i < HK_EXTENSIONS; i++) {
		if (h[0] == HK_PROTO_TCP)
			return at;
		if (h[0] != 0 /* hop-by-hop */ && h[0] != 43 /* routing */ && h[0] != 60 /* destination options */)
			return 0;
		if (bpf_skb_load_bytes(skb, at, h, 2))
			return 0;
		at += (h[1] + 1) * 8;
	}
	return 0;
}

/* On any doubt it does: the hold is bounded, and what is held back is sent again. */
static __always_inline int hk_carries(struct __sk_buff *skb)
{
	u32 at = hk_tcp_at(skb);
	u8 tcp[14];

	if (!at || bpf_skb_load_bytes(skb, at, tcp, sizeof(tcp)))
		return 1;
	return (tcp[13] & 1 /* FIN */) || skb->len > at + (tcp[12] >> 4) * 4;
}

/* Its header was made while the flow was held, so the socket has no mark yet; the next one will set it. */
static __always_inline void hk_emit_stray(struct hk_sock *st)
{
	struct hk_event *e;

	hk_count(HK_C_STRAY_SEGMENT);
	e = hk_event_new(HK_EVENT_STRAY);
	if (!e)
		return;			/* a retransmission timer does it */
	e->slot = st->slot;
	e->flow_id = st->flow_id;
	hk_submit(e, 1);
}

int hk_hold_egress(struct __sk_buff *skb)
{
	struct hk_config *c = hk_config();
	struct bpf_sock *sk = skb->sk;
	struct hk_sock *st;
	struct hk_flow *f;

	if (!c || !c->busy || !sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st)
		return 1;
	f = hk_flow_of(st);
	if (!f || f->state == HK_STATE_RELEASED || f->state == HK_STATE_FREE || f->wire_released)
		return 1;
	if (f->state == HK_STATE_ENGAGED) {
		if (hk_is_our_mark(c, skb->mark) || !hk_carries(skb))
			return 1;
		hk_emit_stray(st);
		return 0;
	}
	if (!hk_carries(skb))
		return 1;
	__sync_fetch_and_add(&f->held_drops, 1);	/* before the state is read again: the engine */
	if (f->state == HK_STATE_RELEASED)		/* writes the state, then reads held_drops, then nudges */
		return 1;
	hk_count(HK_C_HELD_SEGMENT);
	return 0;
}
