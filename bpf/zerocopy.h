/* SPDX-License-Identifier: GPL-2.0 */
/*
 * SO_ZEROCOPY of a socket whose messages are redirected fails: they are copied, and nobody would tell the application that
 * its buffer is free. A socket that has it already is not adopted (adopt.c).
 */

#define HK_SO_ZEROCOPY 60
#define HK_EOPNOTSUPP 95

static __always_inline int hk_ask_zerocopy(struct bpf_sockopt *o, struct bpf_sock *sk)
{
	struct hk_sock *st = hk_socks.sk_storage_get(sk, 0, 0);
	u32 *value = o->optval;

	if (!st || o->optlen > HK_OPTLEN_SEEN)
		return hk_let(o);
	if (o->optlen < (int)sizeof(*value) || (void *)(value + 1) > o->optval_end)
		return 1;
	st->zerocopy = *value != 0;
	__sync_fetch_and_add(&st->order, 1);		/* a full barrier: hk_adopt does it the other way round */
	if (!st->zerocopy || !*(volatile u8 *)&st->adopted)
		return 1;
	st->zerocopy = 0;
	hk_count(HK_C_ZEROCOPY_REFUSED);
	bpf_set_retval(-HK_EOPNOTSUPP);
	return 0;
}
