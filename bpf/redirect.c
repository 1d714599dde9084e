/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sk_msg: every message a hooked application sends, under its socket's lock.
 *
 * REDIRECT while the flow has credit: frame header in front, to the redirect socket's ingress queue.
 * Otherwise PASS: the bytes go into TCP's own queue, to the engine as segments, and the kernel blocks the writer.
 * Back to REDIRECT only when the engine has taken all that TCP ever got (write_seq).
 */

#ifndef barrier
#define barrier() asm volatile("" ::: "memory")
#endif

static __always_inline int hk_pass(struct hk_redirect *f, u32 size)
{
	f->passed += size;
	hk_count(HK_C_PASSED);
	return SK_PASS;
}

static __always_inline int hk_spill(struct hk_redirect *f, u32 size, u32 why)
{
	f->spill_at = f->redirected;
	f->spills += 1;
	barrier();		/* the engine sees the bytes behind a lock of TCP's: spill_at is out by then */
	f->mode = HK_MODE_PASS;
	hk_count(why);
	return hk_pass(f, size);
}

/* kTLS shows us plaintext and encrypts what it passes on: its messages are TCP's. */
static __always_inline int hk_has_ulp(void *tp)
{
	return *(volatile u64 *)(tp + HK_TCP_ULP_OPS) != 0;
}

int hk_redirect(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct hk_sock *st;
	struct hk_redirect *f;
	struct hk_frame *h;
	struct hk_key redirect_socket = {};
	u32 size = msg->size;
	int drained;
	void *tp;

	if (!sk)
		return SK_PASS;
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st)
		return SK_PASS;
	f = hk_redirecting(st);
	if (!f)
		return SK_PASS;			/* held, released: TCP's */
	if (sk->state != BPF_TCP_ESTABLISHED && sk->state != BPF_TCP_CLOSE_WAIT)
		return SK_PASS;			/* shut down: TCP knows the right error */

	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return hk_pass(f, size);
	drained = *(volatile u32 *)(tp + HK_TCP_WRITE_SEQ) - st->snd_nxt == (u32)f->resume;
	if (f->mode == HK_MODE_PASS) {
		if (!drained || f->redirected - f->consumed >= f->credit || !hk_nonblocking(tp) || hk_has_ulp(tp))
			return hk_pass(f, size);
		f->mode = HK_MODE_REDIRECT;
	} else if (!drained || f->redirected - f->consumed >= f->credit) {
		return hk_spill(f, size, HK_C_SPILLED);	/* no credit, or a send() older than the map entry goes on */
	} else if (!hk_nonblocking(tp)) {
		return hk_spill(f, size, HK_C_BLOCKING);
	} else if (hk_has_ulp(tp)) {
		return hk_spill(f, size, HK_C_ULP);
	}

	if (bpf_msg_push_data(msg, 0, sizeof(*h), 0))
		return hk_spill(f, size, HK_C_PUSH_FAILED);
	if (bpf_msg_pull_data(msg, 0, sizeof(*h), 0))
		goto undo;
	h = (void *)(long)msg->data;
	if ((void *)(h + 1) > (void *)(long)msg->data_end)
		goto undo;
	h->flow_id = st->flow_id;
	h->length = size;
	h->magic = HK_FRAME_MAGIC;
	f->redirected += size;
	hk_count(HK_C_REDIRECTED);
	return hk_sockets.msg_redirect_hash(msg, &redirect_socket, BPF_F_INGRESS);
undo:
	if (bpf_msg_pop_data(msg, 0, sizeof(*h), 0))
		return SK_DROP;			/* the writer gets an error: never a wrong byte */
	return hk_spill(f, size, HK_C_PULL_FAILED);
}
