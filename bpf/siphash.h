/* SPDX-License-Identifier: GPL-2.0 */
/* SipHash-2-4 (Aumasson, Bernstein 2012) of whole words: nonces that nobody without the key can work out. */
#define HK_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define HK_SIPROUND                                              \
	do {                                                     \
		v0 += v1; v1 = HK_ROTL(v1, 13); v1 ^= v0; v0 = HK_ROTL(v0, 32); \
		v2 += v3; v3 = HK_ROTL(v3, 16); v3 ^= v2;            \
		v0 += v3; v3 = HK_ROTL(v3, 21); v3 ^= v0;            \
		v2 += v1; v1 = HK_ROTL(v1, 17); v1 ^= v2; v2 = HK_ROTL(v2, 32); \
	} while (0)

static __always_inline u64 hk_siphash(const u64 *key, const u64 *words, u32 n)	/* n: a constant, below 32 */
{
	u64 v0 = 0x736f6d6570736575ULL ^ key[0], v1 = 0x646f72616e646f6dULL ^ key[1];
	u64 v2 = 0x6c7967656e657261ULL ^ key[0], v3 = 0x7465646279746573ULL ^ key[1];
	u64 last = (u64)n << 59;		/* the length in bytes */
	u32 i;

#pragma unroll
	for (i = 0; i < n; i++) {
		v3 ^= words[i]; HK_SIPROUND; HK_SIPROUND; v0 ^= words[i];
	}
	v3 ^= last; HK_SIPROUND; HK_SIPROUND; v0 ^= last;
	v2 ^= 0xff;
	HK_SIPROUND; HK_SIPROUND; HK_SIPROUND; HK_SIPROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
