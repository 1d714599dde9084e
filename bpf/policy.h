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
