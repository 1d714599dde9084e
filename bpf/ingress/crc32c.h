/* SPDX-License-Identifier: GPL-2.0 */
/* CRC32C (RFC 3720, B.4), with the engine's table. */
#define HK_CRC_MOST 2048		/* bytes; INITs have 1,200, or what a link takes */

static __always_inline u32 hk_crc_byte(const struct hk_table *t, u32 crc, u8 byte)
{
	u32 at = crc ^ byte;

	asm volatile("" : "+r"(at));	/* else the compiler masks first, and Linux 6.1 loses a bound in the XOR */
	return t->of[at & 255] ^ crc >> 8;
}

static __always_inline u32 hk_crc_word(const struct hk_table *t, u32 crc, u32 word)	/* as it lies in memory, low byte first */
{
	crc ^= word;
	return t->of[768 + (crc & 255)] ^ t->of[512 + (crc >> 8 & 255)] ^ t->of[256 + (crc >> 16 & 255)] ^ t->of[crc >> 24];
}

/* Of the datagram in hand, and whether it is the four bytes behind it. */
static __always_inline int hk_crc_is_right(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_table *t)
{
	void *end = (void *)(long)ctx->data_end;
	void *at = hk_at(ctx, p->vtl_at, 0);
	u32 crc = ~0U, words = p->size >> 2, i;

	if (!at)
		return 0;
	for (i = 0; i < HK_CRC_MOST / 4 && i < words; i++) {
		asm volatile("" : "+r"(at));	/* else the compiler counts with addresses as the verifier forbids */
		if (at + 4 > end)
			return 0;
		crc = hk_crc_word(t, crc, *(u32 *)at);
		at += 4;
	}
	for (i = 0; i < 3 && i < (p->size & 3); i++) {
		asm volatile("" : "+r"(at));
		if (at + 1 > end)
			return 0;
		crc = hk_crc_byte(t, crc, *(u8 *)at);
		at += 1;
	}
	return at + 4 <= end && *(__be32 *)at == bpf_htonl(~crc);
}
