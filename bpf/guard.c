/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup_skb egress: where the payload of held flows may go. Whatever marks and rules say,
 * the interface decides. What is kept back TCP keeps unsent in its own queue. Pure ACKs and RST pass.
 *
 * It may outlive the engine (the janitor holds its link): then `hold` stays what it was.
 */

/* The engine does not run: it has not looked since the flow began, or not for longer than it lets one wait. */
static __always_inline int hk_is_held_in_vain(struct hk_config *c, struct hk_sock *st)
{
	u64 looked = hk_looked(), now = bpf_ktime_get_ns();

	if (!looked || st->pinned)
		return 0;
	if (st->sent_ns > looked)
		return now - st->sent_ns > HK_STALLED_NS;
	return now - looked > HK_STALLED_NS + c->hold_ms * 1000000ull;
}

/* By the wire, for good, as a marked one (marking.c). */
static __always_inline void hk_let_pass(struct hk_sock *st)
{
	struct hk_flow *f = hk_flow_of(st);

	st->held = 0;
	if (!f)
		return;
	f->steered = HK_STEERED_STALLED;
	hk_emit_steered(st, HK_STEERED_STALLED);
}

int hk_guard(struct __sk_buff *skb)
{
	struct hk_config *c = hk_config();
	struct bpf_sock *sk = skb->sk;
	struct hk_sock *st;
	u32 hold;

	if (!c || !c->busy || !sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st)
		return 1;
	hold = hk_hold_of(st);
	if (hold == HK_HOLD_NONE || (hold == HK_HOLD_WIRE && skb->ifindex == c->device) || !hk_carries(skb))
		return 1;
	if (hk_is_held_in_vain(c, st)) {
		hk_let_pass(st);
		return 1;
	}
	hk_count(HK_C_HELD_SEGMENT);
	return 0;
}
