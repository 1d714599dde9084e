/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup getsockopt: what applications see of their sockets' options is what they have set. Under the socket's lock, after
 * the kernel's own handling. setsockopt's program is in steering.c.
 */

#define HK_SO_BINDTODEVICE 25
#define HK_SO_BINDTOIFINDEX 62
#define HK_SOL_IP 0
#define HK_IP_MTU 14
#define HK_SOL_IPV6 41
#define HK_IPV6_MTU 24
#define HK_IPV6_PATHMTU 61
#define HK_PATHMTU_MTU 28	/* of ip6m_mtu in struct ip6_mtuinfo, bytes */
#define HK_TCP_INFO 11
#define HK_INFO_PMTU 60		/* of tcpi_pmtu in struct tcp_info, bytes */
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
	int i;

	if ((void *)(name + 3) > o->optval_end || !st->congestion[0] || !hk_congestion_is(name, "ren"))
		return;
#pragma unroll
	for (i = 0; i < HK_CC_NAME && (void *)(name + i + 1) <= o->optval_end; i++)	/* as much as was asked for */
		name[i] = st->congestion[i];
}

/* The path's, not our device's. TCP has that until the second segment after the mark has gone. */
static __always_inline void hk_show_pmtu(struct bpf_sockopt *o, struct hk_sock *st, u32 at)
{
	struct hk_config *c = hk_config();
	u32 *value = o->optval + at;

	if (!c || (void *)(value + 1) > o->optval_end || *value != c->device_mtu || !st->pmtu)
		return;
	*value = st->pmtu;
}

/* 1 if the option is one that tells of the path. */
static __always_inline int hk_show_path(struct bpf_sockopt *o, struct hk_sock *st)
{
	int level = o->level, name = o->optname;

	if ((level == HK_SOL_IP && name == HK_IP_MTU) || (level == HK_SOL_IPV6 && name == HK_IPV6_MTU))
		hk_show_pmtu(o, st, 0);
	else if (level == HK_SOL_IPV6 && name == HK_IPV6_PATHMTU)
		hk_show_pmtu(o, st, HK_PATHMTU_MTU);
	else if (level == HK_SOL_TCP && name == HK_TCP_INFO)
		hk_show_pmtu(o, st, HK_INFO_PMTU);
	else
		return 0;
	return 1;
}

/* Whether it is worth a look. */
static __always_inline int hk_tells(struct bpf_sockopt *o)
{
	switch (o->level) {
	case HK_SOL_SOCKET:
		return o->optname == HK_SO_MARK;
	case HK_SOL_TCP:
		return o->optname == HK_TCP_CONGESTION || o->optname == HK_TCP_INFO;
	case HK_SOL_IP:
		return o->optname == HK_IP_MTU;
	case HK_SOL_IPV6:
		return o->optname == HK_IPV6_MTU || o->optname == HK_IPV6_PATHMTU;
	}
	return 0;
}

int hk_getsockopt(struct bpf_sockopt *o)
{
	struct bpf_sock *sk = o->sk;
	struct hk_sock *st;

	if (!sk || o->retval || !hk_tells(o))
		return hk_let(o);
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st || o->optlen > HK_OPTLEN_SEEN)
		return hk_let(o);
	if (hk_show_path(o, st))
		return 1;
	if (o->level == HK_SOL_SOCKET)
		hk_show_mark(o, st);
	else
		hk_show_congestion(o, st);
	return 1;
}
