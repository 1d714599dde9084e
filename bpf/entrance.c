/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Socket filter of the engine's device: who may speak to the engine by it. Any local user can send there, by SO_BINDTODEVICE
 * (Linux 5.7) where a route leads nowhere else. Only the sockets that carry our mark mean us, and setting one needs privileges.
 * SO_MARK's other form counts, too: it is ours with the application's own value behind it.
 */

int hk_entrance(struct __sk_buff *skb)
{
	struct hk_config *c = hk_config();

	if (c && c->mark && hk_is_our_mark(c, skb->mark))
		return skb->len;
	hk_count(HK_C_STRANGER);
	return 0;
}
