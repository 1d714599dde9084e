/* SPDX-License-Identifier: GPL-2.0 */
/* SipHash-2-4 of 16 bytes (Aumasson, Bernstein 2012): server nonces without state. */
#define HK_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define HK_SIPROUND                                              \
	do {                                                     \
		v0 += v1; v1 = HK_ROTL(v1, 13); v1 ^= v0; v0 = HK_ROTL(v0, 32); \
		v2 += v3; v3 = HK_ROTL(v3, 16); v3 ^= v2;            \
		v0 += v3; v3 = HK_ROTL(v3, 21); v3 ^= v0;            \
		v2 += v1; v1 = HK_ROTL(v1, 17); v1 ^= v2; v2 = HK_ROTL(v2, 32); \
	} while (0)

static __always_inline u64 hk_siphash(u64 k0, u64 k1, u64 a, u64 b)
{
	u64 v0 = 0x736f6d6570736575ULL ^ k0, v1 = 0x646f72616e646f6dULL ^ k1;
	u64 v2 = 0x6c7967656e657261ULL ^ k0, v3 = 0x7465646279746573ULL ^ k1;
	u64 last = 16ULL << 56;

	v3 ^= a; HK_SIPROUND; HK_SIPROUND; v0 ^= a;
	v3 ^= b; HK_SIPROUND; HK_SIPROUND; v0 ^= b;
	v3 ^= last; HK_SIPROUND; HK_SIPROUND; v0 ^= last;
	v2 ^= 0xff;
	HK_SIPROUND; HK_SIPROUND; HK_SIPROUND; HK_SIPROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
