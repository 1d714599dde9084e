/* SPDX-License-Identifier: GPL-2.0 */
/*
 * iter/tcp, for the janitor: what no socket can be asked for before a segment of its own.
 *
 * hk_restore takes back what we have set on applications' sockets, whose engine is dead. Sockets of pinned flows keep the
 * mark: it ends them.
 */
struct hk_iter_tcp {			/* struct bpf_iter__tcp */
	u64 meta;
	void *socket;			/* minisockets, too; 0 at the end */
};

int hk_restore(struct hk_iter_tcp *it)
{
	void *sk = it->socket, *tp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	struct hk_config *c = hk_config();
	struct hk_sock *st;
	u32 mark;

	if (!c || !tp)
		return 0;
	st = hk_socks.sk_storage_get(tp, 0, 0);
	if (!st || st->pinned)
		return 0;
	mark = *(volatile u32 *)(tp + HK_SOCK_MARK);
	if (hk_is_our_mark(c, mark))
		hk_set_mark(tp, hk_app_mark(st, mark));
	hk_congestion_restore(tp, st);
	return 0;
}

/*
 * Of an engine that was stopped. Before a segment whose option space is full (marking.c) the kernel asks nothing of us, and a
 * socket that only receives has no timeouts either. Timestamps leave room for three ranges that it has, and its peer repeats
 * what is there already, so the first of them says that. Pinned flows wait.
 */
#define HK_FULL_SACKS 2			/* and that one */

int hk_release(struct hk_iter_tcp *it)
{
	void *sk = it->socket, *tp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	struct hk_config *c = hk_config();
	struct hk_sock *st;
	struct hk_flow *f;
	u32 mark;

	if (!c || !tp || *(volatile u8 *)(tp + HK_TCP_NUM_SACKS) < HK_FULL_SACKS)
		return 0;
	st = hk_socks.sk_storage_get(tp, 0, 0);
	f = st ? hk_flow_of(st) : 0;
	if (!f || !f->marked || f->steered || st->early || hk_is_pinned(st))
		return 0;
	mark = *(volatile u32 *)(tp + HK_SOCK_MARK);
	if (!hk_is_our_mark(c, mark) || hk_set_mark(tp, hk_app_mark(st, mark)))
		return 0;
	f->steered = HK_STEERED_STALLED;
	f->marked = 0;
	hk_congestion_restore(tp, st);
	hk_emit_steered(st, HK_STEERED_STALLED);
	hk_count(HK_C_SOCKET_UNMARKED);
	return 0;
}
