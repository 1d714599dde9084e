/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The record of a flow whose messages may be redirected. It belongs to a slot, as the flow's own record does, and is the
 * flow's from the beginning: what the slot's flow before has left in it is nobody's.
 */

BPF_F_TABLE("array", u32, struct hk_redirect, hk_redirects, HK_MAX_FLOWS, 1024 /* BPF_F_MMAPABLE */);

static __always_inline void hk_redirect_init(u64 id)
{
	u32 slot = id;
	struct hk_redirect *r = hk_redirects.lookup(&slot);

	if (!r)
		return;
	r->allowed = 0;			/* the engine's from now on */
	r->redirected = r->spill_at = r->passed = 0;
	r->mode = HK_MODE_PASS;
	r->spills = 0;
	r->flow_id = id;
}

static __always_inline struct hk_redirect *hk_redirecting(struct hk_sock *st)
{
	u32 slot = st->slot;
	struct hk_redirect *r;

	if (!st->flow_id)
		return 0;
	r = hk_redirects.lookup(&slot);
	return r && r->flow_id == st->flow_id && *(volatile u32 *)&r->allowed ? r : 0;
}
