/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup_skb egress: where the payload of held flows may go. Whatever marks and rules say,
 * the interface decides. What is kept back TCP keeps unsent in its own queue. Pure ACKs and RST pass.
 *
 * It may outlive the engine (the janitor holds its link): then `hold` stays what it was.
 */

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
	hk_count(HK_C_HELD_SEGMENT);
	return 0;
}
