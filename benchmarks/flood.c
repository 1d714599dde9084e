/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A sender of floods, as fast as one CPU can: the kernel runs this on frames of its own and sends each on (BPF_PROG_TEST_RUN with
 * live frames). Each is one INIT of 128 bytes over UDP without a checksum: new, with a forged cookie, or made DATA of nobody's, or
 * garbage; from one of 50,000 addresses, whose halves add up to the same, so that IPv4's checksum stays right.
 */
#include <linux/bpf.h>

#define SOURCE 26			/* offsets in the frame */
#define VTL 42
#define INITIATOR (VTL + 12)
#define COOKIE (VTL + 44)
#define END (VTL + 128)
#define WORDS (END / 8)			/* of a frame; behind them are two bytes of padding */
#define PROTOCOL 23
#define FROM_PORT 34
#define FLOODS_PORT 40000		/* nobody else's here */

/*
 * What all have in common. It is written anew each time, for frames come back as the other end has left them. Their length, too:
 * what is given is longer by LONGER, so that the kernel sees each time that the program has changed it.
 */
#define LONGER 2

struct frame {
	u64 of[WORDS];
};

BPF_ARRAY(frames, struct frame, 1);

static __always_inline u64 any(void)
{
	return (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
}

static __always_inline int made(struct xdp_md *ctx, int verdict)
{
	int more = END - (int)(ctx->data_end - ctx->data);
	u32 high = 0x0b00 + bpf_get_prandom_u32() % (0xdf00 - 0x0b00), kind = bpf_get_prandom_u32() & 3;
	u32 zero = 0, i;
	struct frame *f = frames.lookup(&zero);
	u64 *cookie, *word;
	u8 *p;

	if (!f || (more && bpf_xdp_adjust_tail(ctx, more)))
		return XDP_DROP;
	p = (void *)(long)ctx->data;
	word = (void *)p;
	cookie = (void *)(p + COOKIE);
	if ((void *)(p + END) > (void *)(long)ctx->data_end)
		return XDP_DROP;
#pragma unroll
	for (i = 0; i < WORDS; i++)
		word[i] = f->of[i];
	if (high >> 8 == 0x7f)
		high = 0x0b01;
	*(u16 *)(p + SOURCE) = bpf_htons(high);
	*(u16 *)(p + SOURCE + 2) = bpf_htons(0xffff - high);
	*(u64 *)(p + INITIATOR) = any();
	p[VTL] = kind == 2 ? 0x28 : kind == 3 ? 0x71 : 0x21;
	cookie[0] = kind == 1 ? any() : 0;
	cookie[1] = kind == 1 ? bpf_htonll(bpf_ktime_get_ns() >> 30) : 0;
	cookie[2] = kind == 1 ? any() : 0;
	return verdict;
}

int flood(struct xdp_md *ctx)
{
	return made(ctx, XDP_TX);
}

/* What making it costs the machine: none of it is sent. */
int held(struct xdp_md *ctx)
{
	return made(ctx, XDP_DROP);
}

/* The least that a program at the other end can do against it. */
int bare(struct xdp_md *ctx)
{
	u8 *p = (void *)(long)ctx->data;

	if ((void *)(p + FROM_PORT + 2) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	return p[PROTOCOL] == 17 && *(u16 *)(p + FROM_PORT) == bpf_htons(FLOODS_PORT) ? XDP_DROP : XDP_PASS;
}
