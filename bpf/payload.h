/* SPDX-License-Identifier: GPL-2.0 */
/* What a packet on its way out carries: cgroup_skb programs see it from the network header on. */

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
