/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What we set on an application's socket while its flow is engaged, and take back when it is closed: nothing of ours
 * outlives the flow, since the socket may (connect(AF_UNSPEC), then listen() or connect() again).
 */

#define HK_SOL_SOCKET 1
#define HK_SO_MARK 36
#define HK_SOL_TCP 6
#define HK_EPIPE 32
#define HK_ECONNRESET 104
#define HK_TCP_CONGESTION 13
#define HK_ASIDE_NS 1000000000ULL

/* What else a marked socket is asked at: marking.c, hk_look_again(). */
#define HK_CB_MARKED BPF_SOCK_OPS_RTO_CB_FLAG

static __always_inline void hk_cb_flags(struct bpf_sock_ops *s, u32 set)
{
	u32 ours = BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG |
		   BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG | HK_CB_MARKED;

	bpf_sock_ops_cb_flags_set(s, (s->bpf_sock_ops_cb_flags & ~ours) | set);
}

/* No flow has begun, so that is all that may be ours: other programs of the socket's cgroups have asked for the rest. */
static __always_inline void hk_cb_leave(struct bpf_sock_ops *s)
{
	bpf_sock_ops_cb_flags_set(s, s->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

static __always_inline void hk_cb_marked(struct bpf_sock_ops *s, u32 set)
{
	bpf_sock_ops_cb_flags_set(s, (s->bpf_sock_ops_cb_flags & ~HK_CB_MARKED) | set);
}

static __always_inline int hk_is_our_mark(struct hk_config *c, u32 mark)
{
	return (mark & ~HK_MARK_OTHER) == c->mark;
}

/* `s` is what a program may set options of: its context, or a socket. */
static __always_inline int hk_set_mark(void *s, int mark)
{
	return bpf_setsockopt(s, HK_SOL_SOCKET, HK_SO_MARK, &mark, sizeof(mark));
}

/* What the application has set: for each form of ours, so that what the kernel refuses it changes nothing. */
static __always_inline u32 hk_app_mark(struct hk_sock *st, u32 mark)
{
	return mark & HK_MARK_OTHER ? st->app_mark[1] : st->app_mark[0];
}

/*
 * setsockopt(SO_MARK) of a socket with our mark: ours stays, in its other form. The kernel asks for the privilege, and
 * `app_mark` of that form is given back. 0: there is no mark of ours, or no value to see.
 */
static __always_inline int hk_keep_mark(struct bpf_sockopt *o, struct bpf_sock *sk, struct hk_sock *st)
{
	struct hk_config *c = hk_config();
	u32 *value = o->optval, mark = sk->mark;

	if (!c || !hk_is_our_mark(c, mark) || o->optlen < (int)sizeof(*value) || (void *)(value + 1) > o->optval_end)
		return 0;
	if (mark & HK_MARK_OTHER)
		st->app_mark[0] = *value;
	else
		st->app_mark[1] = *value;
	*value = mark ^ HK_MARK_OTHER;
	hk_count(HK_C_MARK_KEPT);
	return 1;
}

/* Whether the socket has keys to sign segments with, for any peer. A kernel may be without either. */
static __always_inline int hk_is_signed(void *tp)
{
	int has = 0;

#ifdef HK_TCP_MD5SIG_INFO
	has |= *(void * volatile *)(tp + HK_TCP_MD5SIG_INFO) != 0;
#endif
#ifdef HK_TCP_AO_INFO
	has |= *(void * volatile *)(tp + HK_TCP_AO_INFO) != 0;
#endif
	return has;
}

/* Whether its route leads to this host, whichever of its addresses it is. The loopback interface is number 1 in each namespace. */
static __always_inline int hk_leads_here(void *tp)
{
	void *dst = *(void * volatile *)(tp + HK_SOCK_DST), *dev;

	if (!dst)
		return 0;
	dev = *(void * volatile *)(dst + HK_DST_DEV);
	return dev && *(volatile u32 *)(dev + HK_DEV_IFINDEX) == 1;
}

/* Whether its segments have an IPv6 routing header, which is a way of its own: the engine would refuse them. */
static __always_inline int hk_has_route(void *tp)
{
#ifdef HK_SOCK_PINET6
	void *ipv6 = *(void * volatile *)(tp + HK_SOCK_PINET6), *opt;

	if (!ipv6)
		return 0;
	opt = *(void * volatile *)(ipv6 + HK_IPV6_OPT);
	return opt && *(void * volatile *)(opt + HK_IPV6_SRCRT) != 0;
#else
	return 0;
#endif
}

static __always_inline int hk_is_repaired(void *tp)
{
	return (*(volatile u8 *)(tp + HK_TCP_REPAIR_BYTE) & HK_TCP_REPAIR_MASK) != 0;
}

/* ---- congestion control ----
 * Engaged, the socket talks to the engine, where a model of a path only costs. bbr's pacing cannot be turned off once it
 * has begun, so a socket that may be engaged does not begin it. On TCP again it has its own back, at the price that it is
 * paced when it is engaged another time: a path that loses costs reno more. So it has where the transport repairs nothing.
 */
static __always_inline int hk_congestion_is(const char *name, const char *what)	/* its first three letters */
{
	return name[0] == what[0] && name[1] == what[1] && name[2] == what[2];
}

static __always_inline void hk_congestion_reno(struct bpf_sock_ops *s, struct hk_sock *st)
{
	char name[HK_CC_NAME] = {}, reno[HK_CC_NAME] = "reno";

	if (bpf_getsockopt(s, HK_SOL_TCP, HK_TCP_CONGESTION, name, sizeof(name)) ||
	    !hk_congestion_is(name, "bbr"))
		return;
	__builtin_memcpy(st->congestion, name, sizeof(name));
	st->aside_ns = bpf_ktime_get_ns();
	bpf_setsockopt(s, HK_SOL_TCP, HK_TCP_CONGESTION, reno, sizeof(reno));
}

#define HK_TCP_BPF_SNDCWND_CLAMP 1002
#define HK_NO_SSTHRESH 0x7fffffff	/* the kernel's TCP_INFINITE_SSTHRESH */

/*
 * The transport knows what its path takes. A threshold that is left from what the wire has lost would be a second, blind
 * opinion, for the connection's life: from two segments on reno grows by one for each round trip.
 */
static __always_inline void hk_congestion_widen(struct bpf_sock_ops *s)
{
	int most = HK_NO_SSTHRESH;

	if (s->snd_ssthresh < HK_NO_SSTHRESH)		/* the option sets both */
		bpf_setsockopt(s, HK_SOL_TCP, HK_TCP_BPF_SNDCWND_CLAMP, &most, sizeof(most));
}

/* Not engaged, it has been without its own for long enough: its peer's engine does not answer, or has not asked. */
static __always_inline int hk_congestion_overdue(struct hk_sock *st)
{
	return st->congestion[0] && bpf_ktime_get_ns() - st->aside_ns > HK_ASIDE_NS;
}

static __always_inline void hk_congestion_restore(void *s, struct hk_sock *st)
{
	char name[HK_CC_NAME] = {};

	if (!st->congestion[0])
		return;
	/* unless the application has chosen another one meanwhile; hk_chosen_congestion() has heard of reno */
	if (!bpf_getsockopt(s, HK_SOL_TCP, HK_TCP_CONGESTION, name, sizeof(name)) && hk_congestion_is(name, "ren")) {
		__builtin_memcpy(name, st->congestion, sizeof(name));
		bpf_setsockopt(s, HK_SOL_TCP, HK_TCP_CONGESTION, name, sizeof(name));
	}
	st->congestion[0] = 0;
}

/* setsockopt(TCP_CONGESTION): where it is reno, ours is the application's now. Not so names that the kernel will not know. */
static __always_inline void hk_chosen_congestion(struct bpf_sockopt *o, struct bpf_sock *sk)
{
	char *name = o->optval;
	struct hk_sock *st;

	if (o->level != HK_SOL_TCP || o->optname != HK_TCP_CONGESTION || o->optlen < 4 ||
	    (void *)(name + 4) > o->optval_end || !hk_congestion_is(name, "ren") || name[3] != 'o')
		return;
	if (o->optlen > 4 && ((void *)(name + 5) > o->optval_end || name[4]))
		return;
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (st)
		st->congestion[0] = 0;
}

/* ---- the end ---- */

/* Whether the peer has closed, too. */
static __always_inline int hk_has_fin(void *tp)
{
	return (*(volatile u64 *)(tp + HK_SOCK_FLAGS) & HK_SOCK_DONE) != 0;
}

/*
 * HK_APP_*. An abort's RST comes after this callback, and goes where TCP's would, to the peer's host: a connection
 * with the same ports may follow it at once. A socket that is reset or times out has an error already. One under repair
 * sends none: its connection goes on with another socket.
 */
static __always_inline u32 hk_how_closed(void *tp, u32 old_state)
{
	void *so = *(void * volatile *)(tp + HK_SOCK_SOCKET);
	u32 error = *(volatile u32 *)(tp + HK_SOCK_ERR);

	if (hk_is_repaired(tp))
		return HK_APP_CLOSED;
	if (error)
		return error == HK_ECONNRESET || error == HK_EPIPE ? HK_APP_RESET : HK_APP_CLOSED;
	if (old_state == BPF_TCP_CLOSING || (old_state == BPF_TCP_FIN_WAIT2 && (!so || hk_has_fin(tp))))
		return HK_APP_LINGERS;
	if (so && (old_state == BPF_TCP_ESTABLISHED || old_state == BPF_TCP_CLOSE_WAIT ||
		   old_state == BPF_TCP_FIN_WAIT1 || old_state == BPF_TCP_FIN_WAIT2))
		return HK_APP_ABORTED;
	return HK_APP_CLOSED;
}

static __always_inline void hk_give_back(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk,
					 struct hk_sock *st)
{
	u32 mark = sk->mark;

	if (hk_is_our_mark(c, mark))
		hk_set_mark(s, hk_app_mark(st, mark));
	hk_congestion_restore(s, st);
	hk_cb_flags(s, 0);
	hk_socks.sk_storage_delete(sk);
}
