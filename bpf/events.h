/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Events for the worker. Waking it costs an interrupt to ourselves, so only a worker that is asleep is woken: it says
 * "asleep", then looks at the ring once more; we put the event into the ring, then look whether it is asleep.
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

static __always_inline int hk_is_awake(void)
{
	u32 zero = 0;
	struct hk_attention *a = hk_attention.lookup(&zero);

	return a && *(volatile u32 *)&a->awake;
}

static __always_inline void hk_submit(struct hk_event *e)
{
	int awake = hk_is_awake();

	hk_events.ringbuf_submit(e, awake ? BPF_RB_NO_WAKEUP : 0);	/* a full barrier */
	if (!awake || hk_is_awake())
		return;
	e = hk_events.ringbuf_reserve(sizeof(struct hk_event));
	if (e)
		hk_events.ringbuf_discard(e, BPF_RB_FORCE_WAKEUP);
}
