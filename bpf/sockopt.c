/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cgroup setsockopt, of an engine that takes messages: options of a hooked socket that mean its route, in mid-flow, and
 * those of listeners that defer (defer.c). Another engine's program may come before or after, so a value that a program
 * can see stays. Under the socket's lock; the kernel's own handling follows.
 */

#define HK_SO_RCVBUF 8
#define HK_SO_RCVBUFFORCE 33
#define HK_TCP_WINDOW_CLAMP 10

/* Held or engaged: its bytes would leave by that device, past the transport, and there is no way back to TCP. */
static __always_inline int hk_refuse_device(struct hk_sock *st)
{
	struct hk_flow *f = hk_flow_of(st);

	if (!f || (f->state != HK_STATE_HELD && f->state != HK_STATE_ENGAGED))
		return 1;
	hk_count(HK_C_BIND_REFUSED);
	return 0;			/* EPERM */
}

/* The window that the peer's engine may fill changes in mid-flow; the value is the kernel's business. */
static __always_inline void hk_note_buffer(struct bpf_sockopt *o, struct bpf_sock *sk)
{
	struct hk_sock *st;
	struct hk_flow *f;

	if (o->level == HK_SOL_SOCKET ? o->optname != HK_SO_RCVBUF && o->optname != HK_SO_RCVBUFFORCE
				      : o->level != HK_SOL_TCP || o->optname != HK_TCP_WINDOW_CLAMP)
		return;
	st = hk_socks.sk_storage_get(sk, 0, 0);
	f = st ? hk_flow_of(st) : 0;
	if (f)
		f->narrow = 1;
}

int hk_setsockopt(struct bpf_sockopt *o)
{
	struct bpf_sock *sk = o->sk;
	struct hk_sock *st;

	if (!sk)
		return hk_let(o);
	hk_note_deferring(o, sk);
	hk_note_buffer(o, sk);
	if (o->level != HK_SOL_SOCKET)
		return hk_let(o);
	switch (o->optname) {
	case HK_SO_MARK:
	case HK_SO_BINDTODEVICE:
	case HK_SO_BINDTOIFINDEX:
		break;
	case HK_SO_ZEROCOPY:
		return hk_ask_zerocopy(o, sk);
	default:
		return hk_let(o);
	}
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st || o->optlen > HK_OPTLEN_SEEN)
		return hk_let(o);
	if (o->optname != HK_SO_MARK)
		return hk_refuse_device(st);
	hk_keep_mark(o, sk, st);
	return 1;
}
