/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A COOKIE back to where an INIT came from, in its frame. It is smaller than any INIT, so nobody gets more than he has sent,
 * whoever that is (RFC 9000, 8).
 */
#define HK_TTL 64

static __always_inline void hk_make_cookie(struct hk_answer *a, const struct hk_packet *p, const struct hk_ingress_settings *s,
					   const struct hk_ingress_way *w, __be64 initiator, u64 now)
{
	struct hk_vtl_cookie *c = &a->cookie;
	u32 i;

	__builtin_memset(a, 0, sizeof(*a));
	c->header.first = HK_VTL_WIRE << 4 | HK_VTL_COOKIE;
	c->header.to_id = initiator;
	c->header.number = hk_new_id(p, s, initiator, now);
	c->versions_n = w->versions_n;
	c->time = bpf_htonll(hk_tick(p->way, now));
	c->mac = hk_cookie_mac(p, w, initiator, c->header.number, c->time);
#pragma unroll
	for (i = 0; i < HK_INGRESS_VERSIONS; i++)
		c->versions[i] = i < w->versions_n ? w->versions[i] : 0;
	a->size = HK_COOKIE_FIXED + 4 * w->versions_n;
}

static __always_inline void hk_add_crc(struct hk_answer *a, const struct hk_table *t)
{
	u32 crc = ~0U, i;

#pragma unroll
	for (i = 0; i < HK_ANSWER_WORDS; i++) {
		if (i * 4 == a->size)
			a->word[i] = bpf_htonl(~crc);
		if (i * 4 < a->size)
			crc = hk_crc_word(t, crc, a->word[i]);
	}
	a->size += HK_CRC;
}

struct hk_pseudo {			/* RFC 768; addresses of IPv4 sum up to the same with ::ffff: before them */
	struct hk_address from, to;
	__be32 size, protocol;
};

static __always_inline u32 hk_pseudo_sum(const struct hk_address *from, const struct hk_address *to, u32 size)
{
	struct hk_pseudo pseudo = {*from, *to, bpf_htonl(size), bpf_htonl(IPPROTO_UDP)};

	return bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);
}

/* The checksum is left to whom it concerns (CHECKSUM_PARTIAL), as far as can be seen. */
static __always_inline int hk_is_partial(const struct hk_packet *p)
{
	return p->way == HK_INGRESS_UDP && p->udp_sum == hk_fold(hk_pseudo_sum(&p->from, &p->to, HK_UDP_HEADER + p->size));
}

static __always_inline u16 hk_udp_sum(const struct hk_packet *p, const struct hk_answer *a)
{
	u32 n = HK_UDP_HEADER + a->size;
	u32 header[2] = {(u32)p->from_port << 16 | p->to_port, bpf_htons(n)};
	u64 sum = hk_pseudo_sum(&p->to, &p->from, n);
	u16 due;

	sum = bpf_csum_diff(0, 0, (void *)header, sizeof(header), sum);
	due = ~hk_fold(bpf_csum_diff(0, 0, (void *)a->word, sizeof(a->word), sum));
	return due ? due : 0xffff;
}

static __always_inline void hk_turn_link(struct ethhdr *eth)
{
	u8 address[ETH_ALEN];

	__builtin_memcpy(address, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, address, ETH_ALEN);
}

static __always_inline void hk_write_v4(struct iphdr *ip, const struct hk_packet *p, u32 payload)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(sizeof(*ip) + payload);
	ip->frag_off = bpf_htons(0x4000);	/* DF; so its id means nothing (RFC 6864) */
	ip->ttl = HK_TTL;
	ip->protocol = p->way == HK_INGRESS_UDP ? IPPROTO_UDP : HK_PROTOCOL;
	ip->saddr = p->to.of[3];
	ip->daddr = p->from.of[3];
	ip->check = ~hk_fold(bpf_csum_diff(0, 0, (void *)ip, sizeof(*ip), 0));
}

static __always_inline void hk_write_v6(struct ipv6hdr *ip, const struct hk_packet *p, u32 payload)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(payload);
	ip->nexthdr = p->way == HK_INGRESS_UDP ? IPPROTO_UDP : HK_PROTOCOL;
	ip->hop_limit = HK_TTL;
	__builtin_memcpy(&ip->saddr, &p->to, sizeof(p->to));
	__builtin_memcpy(&ip->daddr, &p->from, sizeof(p->from));
}

/* The frame has its new length; False: that is not to be seen here. */
static __always_inline int hk_write_answer(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_answer *a)
{
	u32 udp_size = p->way == HK_INGRESS_UDP ? HK_UDP_HEADER : 0;
	u32 at = p->ip_at + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)), i;
	struct ethhdr *eth = hk_at(ctx, 0, sizeof(*eth));
	struct ipv6hdr *v6 = hk_at(ctx, p->ip_at, sizeof(*v6));		/* longer than IPv4's, and the frame than both */
	struct udphdr *udp = hk_at(ctx, at, sizeof(*udp));
	u32 *word;

	if (!eth || !v6 || !udp)
		return 0;
	hk_turn_link(eth);
	if (p->v6)
		hk_write_v6(v6, p, udp_size + a->size);
	else
		hk_write_v4((void *)v6, p, udp_size + a->size);
	if (udp_size) {
		udp->source = p->to_port;
		udp->dest = p->from_port;
		udp->len = bpf_htons(udp_size + a->size);
		udp->check = hk_udp_sum(p, a);
	}
	at += udp_size;
#pragma unroll
	for (i = 0; i < HK_ANSWER_WORDS; i++) {
		if (i * 4 >= a->size)
			break;
		word = hk_at(ctx, at + i * 4, 4);
		if (!word)
			return 0;
		*word = a->word[i];
	}
	return 1;
}

/* XDP_TX; XDP_PASS: the frame cannot be made shorter, and is as it was; XDP_DROP: it cannot be written. */
static __always_inline int hk_answer(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_answer *a)
{
	u32 length = p->ip_at + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + a->size;

	if (p->way == HK_INGRESS_UDP)
		length += HK_UDP_HEADER;
	if (bpf_xdp_adjust_tail(ctx, (int)length - (int)p->length))
		return XDP_PASS;
	return hk_write_answer(ctx, p, a) ? XDP_TX : XDP_DROP;
}
