/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TCP_DEFER_ACCEPT: the server has no connection before its first data, which a held client does not send. So the SYN-ACKs
 * of such listeners say that the service is left to TCP, and nobody waits. By port: a SYN-ACK does not show us its listener.
 * The option may be set before listen(), which handshake.h sees, or after, as nginx and httpd do.
 *
 * Where flows are not held, such a listener is like any other.
 */

BPF_HASH(hk_deferring, u16, u8, 4096);	/* ports of listeners with TCP_DEFER_ACCEPT */

static __always_inline int hk_serves(u16 port)
{
	return !hk_holds() || hk_deferring.lookup(&port) == 0;
}

static __always_inline void hk_set_deferring(u16 port, int on)
{
	u8 one = 1;

	if (on)
		hk_deferring.update(&port, &one);
	else
		hk_deferring.delete(&port);
}

static __always_inline void hk_listens(u16 port, void *tp)
{
	hk_set_deferring(port, *(volatile u8 *)(tp + HK_TCP_DEFER_ACCEPT));
}

static __always_inline void hk_note_deferring(struct bpf_sockopt *o, struct bpf_sock *sk)
{
	int *value = (int *)(long)o->optval;
	struct hk_config *c = hk_config();

	if (o->level == HK_SOL_TCP && o->optname == 9 /* TCP_DEFER_ACCEPT */ && c &&
	    sk->state == BPF_TCP_LISTEN && (void *)(value + 1) <= (void *)(long)o->optval_end &&
	    !hk_is_elsewhere(o, c))
		hk_set_deferring(sk->src_port, *(volatile int *)value > 0);
}
