/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup_skb egress: data and FIN of a held flow stay off the wire. TCP keeps them, unsent, in its own
 * queue. Pure ACKs and RST pass. A segment of an engaged flow without the mark would leave the host:
 * it is dropped, and TCP sends it again once the mark is set.
 */

static __always_inline int hk_carries(struct __sk_buff *skb)
{
	u8 first, tcp[14];
	u32 off;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return 0;
	off = first >> 4 == 6 ? 40 : (first & 0xf) * 4;
	if (bpf_skb_load_bytes(skb, off, tcp, sizeof(tcp)))
		return 0;
	return (tcp[13] & 1 /* FIN */) || skb->len > off + (tcp[12] >> 4) * 4;
}

int hk_hold_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct hk_config *c;
	struct hk_sock *st;
	struct hk_flow *f;

	if (!sk)
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
		c = hk_config();
		if (!c || skb->mark == c->mark || !hk_carries(skb))
			return 1;
		hk_count(HK_C_STRAY_SEGMENT);
		return 0;
	}
	if (!hk_carries(skb))
		return 1;
	__sync_fetch_and_add(&f->held_drops, 1);	/* before the state is read again: the engine */
	if (f->state != HK_STATE_HELD)			/* writes the state, then reads held_drops, then nudges */
		return f->state != HK_STATE_ENGAGED;
	hk_count(HK_C_HELD_SEGMENT);
	return 0;
}
