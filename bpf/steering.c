/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup setsockopt: an application that chooses a route for its connection, in mid-flow,
 * means the wire. The mark goes before the kernel does what it asks, and the flow stays on TCP. Under the socket's lock.
 * A pinned flow cannot follow: a mark is kept until it is over, and a device refused (EPERM).
 *
 * And what other options mean to us: those of listeners that defer (defer.c), of sockets whose messages are redirected.
 */

static __always_inline void hk_steer(struct bpf_sockopt *o, struct bpf_sock *sk, struct hk_sock *st)
{
	struct hk_config *c = hk_config();
	struct hk_flow *f;
	int none = 0;

	if (!c)
		return;
	f = hk_flow_of(st);
	if (!f || f->steered)
		return;
	f->steered = 1;			/* first: the engine looks here before it injects */
	if (hk_is_our_mark(c, sk->mark) && !bpf_setsockopt(sk, HK_SOL_SOCKET, HK_SO_MARK, &none, sizeof(none)))
		f->marked = 0;		/* else with the next segment */
	hk_emit_steered(st);
}

static __always_inline int hk_stays(struct bpf_sockopt *o, struct bpf_sock *sk, struct hk_sock *st)
{
	if (o->optname == HK_SO_MARK && hk_keep_mark(o, sk, st))
		return 1;
	hk_count(HK_C_BIND_REFUSED);
	return 0;
}

int hk_setsockopt(struct bpf_sockopt *o)
{
	struct bpf_sock *sk = o->sk;
	struct hk_sock *st;

	if (!sk)
		return hk_let(o);
	hk_note_deferring(o, sk);
	hk_chosen_congestion(o, sk);
	if (o->level != HK_SOL_SOCKET)
		return hk_let(o);
#ifdef HK_REDIRECTS
	if (o->optname == HK_SO_ZEROCOPY)
		return hk_ask_zerocopy(o, sk);
#endif
	if (o->optname == HK_SO_MARK || o->optname == HK_SO_BINDTODEVICE || o->optname == HK_SO_BINDTOIFINDEX) {
		st = hk_socks.sk_storage_get(sk, 0, 0);
		if (st && hk_is_pinned(st))
			return hk_stays(o, sk, st);
		if (st)
			hk_steer(o, sk, st);
	}
	return hk_let(o);
}
