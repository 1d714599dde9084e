/* SPDX-License-Identifier: GPL-2.0 */
/*
 * iter/tcp: takes back what we have set on applications' sockets, whose engine is dead. The janitor holds an iterator of
 * this program and reads it then. Sockets of pinned flows keep the mark: it ends them.
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
