/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The engine runs this (BPF_PROG_TEST_RUN) to put an application's socket into the SOCKHASH, from where on
 * its messages meet sk_msg. Not at ESTABLISHED: a socket in the map has another recvmsg(), which waits once
 * only, so a blocking recv() returns EAGAIN after any wake-up that is no data (a signal, a state change, a
 * reset). Only sockets whose file is non-blocking go in, and only flows that have some traffic.
 *
 * The packet is an Ethernet header's worth of nothing, then struct hk_key. Returns HK_ADOPT_*.
 */

BPF_SOCKHASH(hk_sockets, struct hk_key, HK_MAX_FLOWS + 64);

/* 1 if the application's file for this socket is non-blocking, 0 if not or if there is none (yet). */
static __always_inline int hk_nonblocking(void *tp)
{
	void *so = *(void * volatile *)(tp + HK_SOCK_SOCKET), *file;

	if (!so)
		return 0;
	file = *(void * volatile *)(so + HK_SOCKET_FILE);
	if (!file)
		return 0;
	return (*(volatile u32 *)(file + HK_FILE_FLAGS) & 00004000 /* O_NONBLOCK */) != 0;
}

/* A send with MSG_ZEROCOPY that meets sk_msg is copied, and nobody tells the application that its buffer is free. */
static __always_inline int hk_wants_zerocopy(struct hk_sock *st, void *tp)
{
	u64 flags = *(volatile u64 *)(tp + HK_SOCK_FLAGS);

	return *(volatile u8 *)&st->zerocopy || (flags & HK_SOCK_ZEROCOPY);
}

static __always_inline struct bpf_sock *hk_find(struct __sk_buff *skb, struct hk_key *k)
{
	u32 *local = (u32 *)k->local_ip, *remote = (u32 *)k->remote_ip;
	struct bpf_sock_tuple t = {};

	if (!remote[0] && !remote[1] && remote[2] == bpf_htonl(0xffff)) {
		t.ipv4.saddr = remote[3];
		t.ipv4.daddr = local[3];
		t.ipv4.sport = bpf_htons(k->remote_port);
		t.ipv4.dport = bpf_htons(k->local_port);
		return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(t.ipv6.saddr, remote, 16);
	__builtin_memcpy(t.ipv6.daddr, local, 16);
	t.ipv6.sport = bpf_htons(k->remote_port);
	t.ipv6.dport = bpf_htons(k->local_port);
	return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
}

static __always_inline int hk_adopt_socket(struct bpf_sock *sk, struct hk_key *k)
{
	void *tp = bpf_skc_to_tcp_sock(sk);
	struct bpf_sock *full;
	struct hk_sock *st;
	long refused;

	if (!tp)
		return HK_ADOPT_GONE;
	full = bpf_sk_fullsock(sk);
	st = full ? hk_socks.sk_storage_get(full, 0, 0) : 0;
	if (!st)
		return HK_ADOPT_GONE;		/* another connection with these addresses */
	if (st->adopted)
		return HK_ADOPT_DONE;
	if (!hk_nonblocking(tp))
		return HK_ADOPT_BLOCKING;
	st->adopted = 1;			/* first: setsockopt() says what it wants, then looks here */
	__sync_fetch_and_add(&st->order, 1);	/* a full barrier */
	if (hk_wants_zerocopy(st, tp)) {
		st->adopted = 0;
		return HK_ADOPT_ZEROCOPY;
	}
	refused = hk_sockets.update(k, (int *)full);
	if (refused)
		st->adopted = 0;
	return refused ? HK_ADOPT_REFUSED : HK_ADOPT_DONE;
}

int hk_adopt(struct __sk_buff *skb)
{
	struct hk_key k;
	struct bpf_sock *sk;
	int verdict;

	if (bpf_skb_load_bytes(skb, 14, &k, sizeof(k)))
		return HK_ADOPT_GONE;
	sk = hk_find(skb, &k);
	if (!sk)
		return HK_ADOPT_GONE;
	verdict = hk_adopt_socket(sk, &k);
	bpf_sk_release(sk);
	return verdict;
}
