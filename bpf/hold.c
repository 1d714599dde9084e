/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup_skb egress: data and FIN of a held flow stay off the wire. TCP keeps them, unsent, in its own
 * queue. Pure ACKs and RST pass. A segment of an engaged flow without the mark would leave the host:
 * it is dropped, and TCP sends it again once the mark is set.
 */

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
