/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How much of a kind goes through, for each source prefix and in all: the generic cell rate algorithm (ITU-T I.371), one number
 * each. CPUs that meet in one may let a packet more pass; nothing is ever stopped for good.
 */

/*
 * What has a place in hk_sources: an IPv4 /24 or an IPv6 /56, and the kind of packet. Two may have the same place, one in 65,536,
 * and then share a rate; which ones nobody can work out.
 */
static __always_inline u64 hk_prefix(const struct hk_packet *p, u32 kind)
{
	u64 v4 = bpf_ntohl(p->from.of[3]) >> 8;
	u64 v6 = ((u64)bpf_ntohl(p->from.of[0]) << 32 | bpf_ntohl(p->from.of[1])) >> 8;

	return (u64)(p->v6 ? 0x60 | kind : 0x40 | kind) << 56 | (p->v6 ? v6 : v4);
}

static __always_inline int hk_is_full(const u64 *due, const struct hk_rate *r, u64 now)
{
	u64 at = *due > now ? *due : now;

	return at - now > r->burst;
}

/* There is room for one more, which takes it. */
static __always_inline int hk_take(u64 *due, const struct hk_rate *r, u64 now)
{
	u64 at = *due > now ? *due : now;

	if (hk_is_full(due, r, now))
		return 0;
	*due = at + r->interval;
	return 1;
}

static __always_inline int hk_take_prefix(const struct hk_packet *p, const struct hk_ingress_settings *s, u32 kind, u64 now)
{
	const struct hk_rate *r = &s->each[kind];
	u64 prefix = hk_prefix(p, kind);
	u64 *due;
	u32 slot;

	if (!r->interval)
		return 1;
	slot = hk_siphash(s->id_secret, &prefix, 1) % HK_INGRESS_SLOTS;
	due = hk_sources.lookup(&slot);
	return !due || hk_take(due, r, now);
}

static __always_inline int hk_is_within(const struct hk_packet *p, const struct hk_ingress_settings *s, u32 kind, u64 now)
{
	u32 key = kind;			/* a copy: of what has an address the verifier does not know that it is small */
	struct hk_due *due = hk_together.lookup(&key);
	const struct hk_rate *all;

	if (!due || kind >= HK_RATES)
		return 1;
	all = &s->all[kind];
	if (all->interval && hk_is_full(&due->at, all, now))	/* first: it is in the caches, a stranger's place is not */
		return 0;
	if (!hk_take_prefix(p, s, kind, now))
		return 0;
	return !all->interval || hk_take(&due->at, all, now);
}
