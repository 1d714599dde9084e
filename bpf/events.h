/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Events for the worker. Waking it costs an interrupt to ourselves, so only a worker that needs it is woken: it says
 * what it is about to do, then looks at the ring once more; we put the event into the ring, then look what it says.
 * While much is going on it is woken only by what is urgent. The rest is read with that, or a moment later.
 */

static __always_inline struct hk_event *hk_event_new(u32 type)
{
	struct hk_event *e = hk_events.ringbuf_reserve(sizeof(struct hk_event));

	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->type = type;
	return e;
}

/* Of what the worker must hear: it looks over all flows then. What the event would say is in the flow's record already. */
static __always_inline void hk_event_lost(void)
{
	u32 zero = 0;
	struct hk_attention *a = hk_attention.lookup(&zero);

	if (a)
		__sync_fetch_and_add(&a->lost, 1);
}

static __always_inline u64 hk_wakeup(int urgent)
{
	u32 zero = 0;
	struct hk_attention *a = hk_attention.lookup(&zero);
	u32 state = a ? *(volatile u32 *)&a->state : HK_ASLEEP;

	if (urgent)
		return state == HK_AWAKE ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
	return state == HK_ASLEEP ? 0 : BPF_RB_NO_WAKEUP;	/* 0: once for all that wait */
}

static __always_inline void hk_submit(struct hk_event *e, int urgent)
{
	u64 wakeup = hk_wakeup(urgent);

	hk_events.ringbuf_submit(e, wakeup);		/* a full barrier */
	if (wakeup != BPF_RB_NO_WAKEUP || hk_wakeup(urgent) == BPF_RB_NO_WAKEUP)
		return;
	e = hk_events.ringbuf_reserve(sizeof(struct hk_event));
	if (e)
		hk_events.ringbuf_discard(e, BPF_RB_FORCE_WAKEUP);
}
