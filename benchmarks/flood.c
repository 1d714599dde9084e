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

static __always_inline u64 any(void)
{
	return (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
}

int flood(struct xdp_md *ctx)
{
	u8 *p = (void *)(long)ctx->data;
	u32 high = 0x0b00 + bpf_get_prandom_u32() % (0xdf00 - 0x0b00), kind = bpf_get_prandom_u32() & 3;
	u64 *cookie = (void *)(p + COOKIE);

	if ((void *)(p + END) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (high >> 8 == 0x7f)
		high = 0x0b01;
	*(u16 *)(p + SOURCE) = bpf_htons(high);
	*(u16 *)(p + SOURCE + 2) = bpf_htons(0xffff - high);
	*(u64 *)(p + INITIATOR) = any();
	p[VTL] = kind == 2 ? 0x28 : kind == 3 ? 0x71 : 0x21;
	cookie[0] = kind == 1 ? any() : 0;
	cookie[1] = kind == 1 ? bpf_htonll(bpf_ktime_get_ns() >> 30) : 0;
	cookie[2] = kind == 1 ? any() : 0;
	return XDP_TX;
}
