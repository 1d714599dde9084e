/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup setsockopt: an application that in mid-flow wants what only TCP has: a route of its own, segments that are signed, or a
 * socket that is taken apart. The mark goes before the kernel does what it asks, and the flow stays on TCP. Under the socket's
 * lock. A pinned flow cannot follow: a mark is kept until it is over, all else refused, as a kernel without it does (signing),
 * or one that asks for a privilege.
 *
 * And what other options mean to us: those of listeners that defer (defer.c), of sockets whose messages are redirected.
 */

#define HK_TCP_MD5SIG 14
#define HK_TCP_REPAIR 19
#define HK_TCP_MD5SIG_EXT 32
#define HK_IPV6_2292PKTOPTIONS 6
#define HK_IPV6_RTHDR 57
#define HK_ENOPROTOOPT 92

static __always_inline void hk_steer(struct bpf_sock *sk, struct hk_sock *st, u32 why)
{
	struct hk_config *c = hk_config();
	struct hk_flow *f;
	int none = 0;

	if (!c)
		return;
	f = hk_flow_of(st);
	if (!f || f->steered)
		return;
	f->steered = why;		/* first: the engine looks here before it injects */
	if (hk_is_our_mark(c, sk->mark) && !bpf_setsockopt(sk, HK_SOL_SOCKET, HK_SO_MARK, &none, sizeof(none)))
		f->marked = 0;		/* else with the next segment */
	hk_emit_steered(st, why);
}

/* 0: it fails, by default with EPERM. */
static __always_inline int hk_stays(struct bpf_sockopt *o, struct bpf_sock *sk, struct hk_sock *st, u32 why)
{
	if (why == HK_STEERED_SIGNED) {
		hk_count(HK_C_SIGNING_REFUSED);
		bpf_set_retval(-HK_ENOPROTOOPT);
		return 0;
	}
	if (why == HK_STEERED_REPAIR) {
		hk_count(HK_C_REPAIR_REFUSED);
		return 0;
	}
	if (o->optname == HK_SO_MARK && hk_keep_mark(o, sk, st))
		return 1;
	hk_count(HK_C_BIND_REFUSED);
	return 0;
}

static __always_inline int hk_begins_repair(struct bpf_sockopt *o)
{
	int *value = o->optval;

	return o->optlen >= (int)sizeof(*value) && (void *)(value + 1) <= o->optval_end && *value == 1 /* TCP_REPAIR_ON */;
}

#define HK_ROUTE_LEAST 8			/* bytes; what is shorter takes one off, or fails */

/* An IPv6 routing header of its own, by either of the ways to ask for it. */
static __always_inline int hk_sets_route(struct bpf_sockopt *o, struct bpf_sock *sk)
{
	return sk->family == 10 /* AF_INET6 */ && o->optlen >= HK_ROUTE_LEAST &&
	       (o->optname == HK_IPV6_RTHDR || o->optname == HK_IPV6_2292PKTOPTIONS);
}

/* HK_STEERED_* that the option means; 0: none. */
static __always_inline u32 hk_steers(struct bpf_sockopt *o, struct bpf_sock *sk)
{
	if (o->level == HK_SOL_SOCKET)
		return o->optname == HK_SO_MARK || o->optname == HK_SO_BINDTODEVICE || o->optname == HK_SO_BINDTOIFINDEX ?
			HK_STEERED_ROUTE : 0;
	if (o->level == HK_SOL_IPV6)
		return hk_sets_route(o, sk) ? HK_STEERED_ROUTE : 0;
	if (o->level != HK_SOL_TCP)
		return 0;
	if (o->optname == HK_TCP_MD5SIG || o->optname == HK_TCP_MD5SIG_EXT)
		return HK_STEERED_SIGNED;
	return o->optname == HK_TCP_REPAIR && hk_begins_repair(o) ? HK_STEERED_REPAIR : 0;
}

int hk_setsockopt(struct bpf_sockopt *o)
{
	struct bpf_sock *sk = o->sk;
	struct hk_sock *st;
	u32 why;

	if (!sk)
		return hk_let(o);
	hk_note_deferring(o, sk);
	hk_chosen_congestion(o, sk);
#ifdef HK_REDIRECTS
	if (o->level == HK_SOL_SOCKET && o->optname == HK_SO_ZEROCOPY)
		return hk_ask_zerocopy(o, sk);
#endif
	why = hk_steers(o, sk);
	st = why ? hk_socks.sk_storage_get(sk, 0, 0) : 0;
	if (st && hk_is_pinned(st))
		return hk_stays(o, sk, st, why);
	if (st)
		hk_steer(sk, st, why);
	return hk_let(o);
}
