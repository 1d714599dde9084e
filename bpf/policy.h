/* SPDX-License-Identifier: GPL-2.0 */
/* Which connections are candidates. Everything else costs this once, at connect or listen. */

/* Context fields must be read at constant offsets: the asm keeps the compiler from merging the branches' loads. */
#define HK_CTX(field) ({ u32 hk_v = (field); asm volatile("" : "+r"(hk_v)); hk_v; })

static __always_inline void hk_addresses(struct bpf_sock_ops *s, struct hk_key *k)
{
	u32 *local = (u32 *)k->local_ip, *remote = (u32 *)k->remote_ip;

	if (s->family == 2 /* AF_INET */) {
		local[2] = remote[2] = bpf_htonl(0xffff);
		local[3] = HK_CTX(s->local_ip4);
		remote[3] = HK_CTX(s->remote_ip4);
	} else {
		local[0] = HK_CTX(s->local_ip6[0]);
		local[1] = HK_CTX(s->local_ip6[1]);
		local[2] = HK_CTX(s->local_ip6[2]);
		local[3] = HK_CTX(s->local_ip6[3]);
		remote[0] = HK_CTX(s->remote_ip6[0]);
		remote[1] = HK_CTX(s->remote_ip6[1]);
		remote[2] = HK_CTX(s->remote_ip6[2]);
		remote[3] = HK_CTX(s->remote_ip6[3]);
	}
	k->local_port = HK_CTX(s->local_port);
	k->remote_port = bpf_ntohl(HK_CTX(s->remote_port));
}

static __always_inline int hk_is_ipv4(struct hk_key *k)
{
	u32 *r = (u32 *)k->remote_ip;

	return !r[0] && !r[1] && r[2] == bpf_htonl(0xffff);
}

static __always_inline int hk_is_local(struct hk_key *k)
{
	u32 *l = (u32 *)k->local_ip, *r = (u32 *)k->remote_ip;

	if (r[0] == l[0] && r[1] == l[1] && r[2] == l[2] && r[3] == l[3])
		return 1;
	if (hk_is_ipv4(k))
		return (bpf_ntohl(r[3]) >> 24) == 127;
	return !r[0] && !r[1] && !r[2] && r[3] == bpf_htonl(1);
}

/* Whether the socket is another network namespace's. `ctx`: of a sock_ops or a sockopt program. */
static __always_inline int hk_is_elsewhere(void *ctx, struct hk_config *c)
{
	return c->netns_cookie && bpf_get_netns_cookie(ctx) != c->netns_cookie;
}

static __always_inline u16 hk_port_bits(struct hk_config *c, u16 port)
{
	u16 *bits = hk_ports.lookup(&port);

	return c->any_port | (bits ? *bits : 0);
}

static __always_inline u16 hk_prefix_bits(struct hk_config *c, struct hk_key *k)
{
	struct hk_prefix p = { .prefix_len = 128 };
	u16 *bits;

	__builtin_memcpy(p.ip, k->remote_ip, 16);
	bits = hk_prefixes.lookup(&p);
	return c->any_prefix | (bits ? *bits : 0);
}

static __always_inline int hk_port_listed(struct hk_config *c, u16 port)
{
	return c->any_port & 1 || hk_port_bits(c, port) & 1;
}

static __always_inline int hk_prefix_listed(struct hk_config *c, struct hk_key *k)
{
	return c->any_prefix & 1 || hk_prefix_bits(c, k) & 1;
}

/* The first rule for that service with that host. */
static __always_inline u32 hk_rule_for(struct hk_config *c, struct hk_key *k, u16 port)
{
	u32 bits, i;

	if (!c->rules_n)
		return 0;
	bits = hk_port_bits(c, port) & hk_prefix_bits(c, k);
	for (i = 1; i < HK_RULES; i++)
		if (bits >> i & 1)
			return i;
	return 0;
}

static __always_inline struct hk_rule *hk_rule(struct hk_config *c, u32 number)
{
	u32 n = HK_CTX(number);

	return &c->rules[n & (HK_RULES - 1)];	/* the verifier wants to see it */
}

#define HK_MISSES 3
#define HK_AVOID_SYN_NS 30000000000ULL	/* a path that drops our SYN; twice as long each time, */
#define HK_AVOID_SYN_MOST 5		/* so often: to 16 min */

static __always_inline int hk_avoided(struct hk_key *k)
{
	struct hk_peer p = {};
	u64 *until;

	__builtin_memcpy(p.ip, k->remote_ip, 16);
	until = hk_avoid.lookup(&p);
	if (until && *until > bpf_ktime_get_ns())
		return 1;
	p.port = k->remote_port;
	until = hk_avoid.lookup(&p);
	return until && *until > bpf_ktime_get_ns();
}

static __always_inline int hk_is_known(struct hk_key *k)
{
	struct hk_peer p = {};
	u32 *what;

	__builtin_memcpy(p.ip, k->remote_ip, 16);
	what = hk_known.lookup(&p);
	return what && *what == HK_ANSWERED;
}

static __always_inline void hk_remember(struct hk_key *k)
{
	struct hk_peer p = {};
	u32 answered = HK_ANSWERED;

	if (hk_is_known(k))
		return;
	__builtin_memcpy(p.ip, k->remote_ip, 16);
	hk_known.update(&p, &answered);
}

/* Leave a service to TCP, and the host (port 0) if this is the second such service and it never answered with the option. */
static __always_inline void hk_avoid_service(struct hk_key *k, u64 ns)
{
	struct hk_peer p = {};
	u64 until = bpf_ktime_get_ns() + ns;
	u32 port = k->remote_port, *what;

	__builtin_memcpy(p.ip, k->remote_ip, 16);
	what = hk_known.lookup(&p);
	if (what && *what != HK_ANSWERED && *what != port)
		hk_avoid.update(&p, &until);
	hk_known.update(&p, &port);		/* what it knew of the path is not true any more */
	p.port = port;
	hk_avoid.update(&p, &until);
}

/*
 * A connection that had an answer only without our option. Of a host that never gave one with it, the path drops the option,
 * probably. Of one that did it is the loss of two packets in a row, which 5 % of loss each way make of one connection in a
 * hundred: only HK_MISSES in a row, each begun after the one before, say that the path is another one by now.
 */
static __always_inline void hk_miss(struct hk_key *k, u64 connect_ns)
{
	struct hk_misses now = { .last_ns = bpf_ktime_get_ns(), .count = 1 }, *before;
	struct hk_peer p = { .port = k->remote_port };

	__builtin_memcpy(p.ip, k->remote_ip, 16);
	before = hk_missed.lookup(&p);
	if (before) {
		if (before->last_ns > connect_ns)
			return;			/* of the same moment */
		now.count += before->count;
	}
	hk_missed.update(&p, &now);
	if (now.count < HK_MISSES && hk_is_known(k))
		return;
	hk_avoid_service(k, HK_AVOID_SYN_NS << (now.count > HK_AVOID_SYN_MOST ? HK_AVOID_SYN_MOST : now.count - 1));
}

/* A SYN with our option had an answer: what was missed before was lost as any packet is. */
static __always_inline void hk_no_miss(struct hk_key *k)
{
	struct hk_peer p = { .port = k->remote_port };

	__builtin_memcpy(p.ip, k->remote_ip, 16);
	if (hk_missed.lookup(&p))
		hk_missed.delete(&p);
}

/* The service's port, the question that most connections end with. */
static __always_inline int hk_port_matters(struct hk_config *c, u16 port)
{
	if (hk_port_listed(c, port))
		return 1;
	hk_count(HK_C_PORT);
	return 0;
}

/* Flows wait at the engine for their turn to be engaged, so those that come begin on TCP. */
static __always_inline int hk_is_crowded(void)
{
	u32 zero = 0;
	struct hk_attention *a = hk_attention.lookup(&zero);

	return a && *(volatile u32 *)&a->crowded;
}

/* The engine has found that its lane is blocked for that family; it says so until it is not. */
static __always_inline int hk_is_blocked(struct hk_key *k)
{
	int zero = 0;
	struct hk_attention *a = hk_attention.lookup(&zero);

	return a && *(volatile u32 *)&a->blocked & (hk_is_ipv4(k) ? HK_BLOCKED_V4 : HK_BLOCKED_V6);
}

/* 1 if a connection between these addresses, to a listed port, is a candidate. */
static __always_inline int hk_candidate(struct hk_config *c, struct hk_key *k)
{
	if (hk_is_local(k)) {
		hk_count(HK_C_LOOPBACK);
		return 0;
	}
	if (c->no_ipv6 && !hk_is_ipv4(k)) {
		hk_count(HK_C_NO_IPV6);
		return 0;
	}
	if (!hk_prefix_listed(c, k)) {
		hk_count(HK_C_PREFIX);
		return 0;
	}
	if (hk_is_blocked(k)) {
		hk_count(HK_C_BLOCKED);
		return 0;
	}
	return 1;
}
