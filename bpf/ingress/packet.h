/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From Ethernet to the first byte of VTL. What cannot be read for certain is not VTL: the kernel knows what to do with it.
 */
#define HK_TAGS 2			/* of VLANs */
#define HK_EXTENSIONS 4			/* headers of IPv6 that are read over */
#define HK_EXTENSION 64			/* bytes of one */
#define HK_V4_WORDS 15			/* of an IPv4 header at most */
#define HK_UDP_HEADER 8
#define HK_CRC 4			/* behind each datagram over IP */
#define HK_PROTOCOL 253			/* for experiments, RFC 3692 */
#define HK_OFFSET 0x1ff			/* all headers: 14 + 8 + 40 + 4 * 64 at most, so every offset is below */

struct hk_address {			/* IPv4 as ::ffff:a.b.c.d */
	__be32 of[4];
};

/*
 * It lies in a map (maps.h), not on the stack, so that the verifier knows nothing of what was read: whichever way a packet
 * was read, what follows is verified once.
 */
struct hk_packet {
	u32 length;			/* of the frame */
	u32 ip_at;			/* offsets from its beginning */
	u32 vtl_at;
	u32 size;			/* of the VTL datagram; over IP without its CRC32C */
	struct hk_address from, to;
	__be16 from_port, to_port;	/* 0 over IP */
	__be16 udp_sum;
	u8 v6;
	u8 way;
	u8 bare;			/* no IPv4 options, no IPv6 extension headers */
	u8 tagged;			/* in a VLAN, and the tag is in the frame */
	u8 pad[2];
};

enum hk_read { HK_OURS, HK_OTHER, HK_FRAGMENT, HK_MALFORMED, HK_DAMAGED };

struct hk_tag {
	__be16 tci, type;
};

/* So many bytes of the frame, or NULL; a long frame may be elsewhere from some byte on. */
static __always_inline void *hk_at(struct xdp_md *ctx, u32 at, u32 n)
{
	void *p = (void *)(long)ctx->data + (at & HK_OFFSET);

	return p + n <= (void *)(long)ctx->data_end ? p : 0;
}

static __always_inline u32 hk_fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The type of what follows the Ethernet header and its tags; 0: cut. */
static __always_inline __be16 hk_read_link(struct xdp_md *ctx, struct hk_packet *p)
{
	struct ethhdr *eth = hk_at(ctx, 0, sizeof(*eth));
	struct hk_tag *tag;
	__be16 type;
	int i;

	if (!eth)
		return 0;
	type = eth->h_proto;
	p->ip_at = sizeof(*eth);
#pragma unroll
	for (i = 0; i < HK_TAGS; i++) {
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		tag = hk_at(ctx, p->ip_at, sizeof(*tag));
		if (!tag)
			return 0;
		type = tag->type;
		p->ip_at += sizeof(*tag);
		p->tagged = 1;
	}
	return type;
}

/* UDP to our port, or IP's protocol 253, with `left` bytes from vtl_at on. */
static __always_inline enum hk_read hk_read_way(struct xdp_md *ctx, struct hk_packet *p, const struct hk_ingress_settings *s,
						u8 protocol, u32 left)
{
	struct udphdr *udp;
	u32 n;

	if (protocol == HK_PROTOCOL && s->ways[HK_INGRESS_IP].on) {
		p->way = HK_INGRESS_IP;
		p->size = left - HK_CRC;
		return left < HK_CRC ? HK_MALFORMED : HK_OURS;
	}
	if (protocol != IPPROTO_UDP || !s->ways[HK_INGRESS_UDP].on || left < HK_UDP_HEADER)
		return HK_OTHER;
	udp = hk_at(ctx, p->vtl_at, sizeof(*udp));
	if (!udp || udp->dest != s->ways[HK_INGRESS_UDP].port)
		return HK_OTHER;
	n = bpf_ntohs(udp->len);
	p->way = HK_INGRESS_UDP;
	p->from_port = udp->source;
	p->to_port = udp->dest;
	p->udp_sum = udp->check;
	p->vtl_at += HK_UDP_HEADER;
	p->size = n - HK_UDP_HEADER;
	if (p->v6 && !n)		/* as long as IP says, to Linux (RFC 2675, 4) */
		return HK_OTHER;
	return n < HK_UDP_HEADER || n > left ? HK_MALFORMED : HK_OURS;
}

/* The checksum of an IPv4 header of so many bytes. */
static __always_inline int hk_header_is_whole(struct xdp_md *ctx, u32 at, u32 header)
{
	u64 sum = 0;
	u32 *word, i;

#pragma unroll
	for (i = 0; i < HK_V4_WORDS; i++) {
		if (i * 4 >= header)
			break;
		word = hk_at(ctx, at + i * 4, 4);
		if (!word)
			return 0;
		sum += *word;
	}
	return hk_fold(sum) == 0xffff;
}

static __always_inline enum hk_read hk_read_v4(struct xdp_md *ctx, struct hk_packet *p, const struct hk_ingress_settings *s)
{
	struct iphdr *ip = hk_at(ctx, p->ip_at, sizeof(*ip));
	u32 header, total;
	enum hk_read r;

	if (!ip || ip->version != 4)
		return HK_OTHER;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || total < header)
		return HK_OTHER;
	if (ip->frag_off & bpf_htons(0x3fff))	/* more of it, or not the first */
		return ip->protocol == IPPROTO_UDP || ip->protocol == HK_PROTOCOL ? HK_FRAGMENT : HK_OTHER;
	p->from.of[2] = p->to.of[2] = bpf_htonl(0xffff);
	p->from.of[3] = ip->saddr;
	p->to.of[3] = ip->daddr;
	p->bare = header == sizeof(*ip);
	p->vtl_at = p->ip_at + header;
	r = hk_read_way(ctx, p, s, ip->protocol, total - header);
	if (r == HK_OURS && p->ip_at + total > p->length)
		return HK_MALFORMED;
	if (r != HK_OTHER && !hk_header_is_whole(ctx, p->ip_at, header))
		return HK_DAMAGED;
	return r;
}

static __always_inline int hk_is_read_over(u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS;
}

static __always_inline enum hk_read hk_read_v6(struct xdp_md *ctx, struct hk_packet *p, const struct hk_ingress_settings *s)
{
	struct ipv6hdr *ip = hk_at(ctx, p->ip_at, sizeof(*ip));
	enum hk_read r;
	u8 *extension;
	u32 left, n;
	u8 next;
	int i;

	if (!ip || ip->version != 6)
		return HK_OTHER;
	__builtin_memcpy(&p->from, &ip->saddr, sizeof(p->from));
	__builtin_memcpy(&p->to, &ip->daddr, sizeof(p->to));
	p->v6 = 1;
	left = bpf_ntohs(ip->payload_len);
	next = ip->nexthdr;
	p->bare = !hk_is_read_over(next);
	p->vtl_at = p->ip_at + sizeof(*ip);
#pragma unroll
	for (i = 0; i < HK_EXTENSIONS; i++) {
		if (!hk_is_read_over(next))
			break;
		extension = hk_at(ctx, p->vtl_at, 8);
		if (!extension)
			return HK_OTHER;
		if (next == IPPROTO_ROUTING && extension[3])	/* it goes on from here */
			return HK_OTHER;
		n = (extension[1] + 1) * 8;
		if (n > left || n > HK_EXTENSION)
			return HK_OTHER;
		next = extension[0];
		p->vtl_at += n;
		left -= n;
	}
	if (next == IPPROTO_FRAGMENT)
		return HK_FRAGMENT;
	n = p->vtl_at + left;
	r = hk_read_way(ctx, p, s, next, left);
	return r == HK_OURS && n > p->length ? HK_MALFORMED : r;
}

static __always_inline enum hk_read hk_read_packet(struct xdp_md *ctx, struct hk_packet *p, const struct hk_ingress_settings *s)
{
	__be16 type;

	__builtin_memset(p, 0, sizeof(*p));
	p->length = bpf_xdp_get_buff_len(ctx);
	type = hk_read_link(ctx, p);
	if (type == bpf_htons(ETH_P_IP))
		return hk_read_v4(ctx, p, s);
	if (type == bpf_htons(ETH_P_IPV6))
		return hk_read_v6(ctx, p, s);
	return HK_OTHER;
}
