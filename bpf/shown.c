/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup getsockopt: what applications see of their sockets' options is what they have set. Under the socket's lock, after
 * the kernel's own handling. setsockopt's program is in steering.c.
 */

#define HK_SO_BINDTODEVICE 25
#define HK_SO_BINDTOIFINDEX 62
#define HK_OPTLEN_SEEN 4096

/* Both answer so. More than a page of value is not shown to programs whole: 0 leaves it as it is. */
static __always_inline int hk_let(struct bpf_sockopt *o)
{
	int seen = o->optlen <= HK_OPTLEN_SEEN;

	asm volatile("" : "+r"(o));	/* the verifier wants both accesses at constant offsets */
	if (!seen)
		o->optlen = 0;
	return 1;
}

/* What the application has set, not what we have. */
static __always_inline void hk_show_mark(struct bpf_sockopt *o, struct hk_sock *st)
{
	struct hk_config *c = hk_config();
	u32 *value = o->optval;

	if (!c || (void *)(value + 1) > o->optval_end || !hk_is_our_mark(c, *value))
		return;
	*value = hk_app_mark(st, *value);
}

static __always_inline void hk_show_congestion(struct bpf_sockopt *o, struct hk_sock *st)
{
	char *name = o->optval;

	if ((void *)(name + HK_CC_NAME) > o->optval_end || !st->congestion[0] || !hk_congestion_is(name, "ren"))
		return;
	__builtin_memcpy(name, st->congestion, HK_CC_NAME);
}

int hk_getsockopt(struct bpf_sockopt *o)
{
	struct bpf_sock *sk = o->sk;
	int is_mark = o->level == HK_SOL_SOCKET && o->optname == HK_SO_MARK;
	struct hk_sock *st;

	if (!sk || o->retval || (!is_mark && (o->level != HK_SOL_TCP || o->optname != HK_TCP_CONGESTION)))
		return hk_let(o);
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st || o->optlen > HK_OPTLEN_SEEN)
		return hk_let(o);
	if (is_mark)
		hk_show_mark(o, st);
	else
		hk_show_congestion(o, st);
	return 1;
}
