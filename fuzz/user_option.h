/* bpf/option.h in user space: the kernel's two helpers around it, and an engine's configuration. */
#ifndef FUZZ_OPTION_H
#define FUZZ_OPTION_H

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>
#include "hooker_kern_user.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define bpf_htons htons
#define bpf_ntohs ntohs

struct bpf_sock_ops {			/* the options of a TCP header, up to 40 bytes */
	u8 opts[40];
	u32 len;
	int no_syn;			/* the kernel kept no SYN */
};

static unsigned fuzz_bad_options;
#define hk_count(which) (fuzz_bad_options++)

/* As bpf_sock_ops_store_hdr_opt(): the option must fit, and its ExID must not be there yet. */
static int bpf_store_hdr_opt(struct bpf_sock_ops *s, const void *from, u32 len, u64 flags)
{
	(void)flags;
	if (len < 2 || ((const u8 *)from)[1] != len)
		return -22;
	if (s->len + len > sizeof(s->opts))
		return -28;
	memcpy(s->opts + s->len, from, len);
	s->len += len;
	return 0;
}

/* As bpf_search_tcp_opt() and bpf_sock_ops_load_hdr_opt() in the kernel's filter.c. */
static int bpf_load_hdr_opt(struct bpf_sock_ops *s, void *result, u32 len, u64 flags)
{
	const u8 *search = result, *op = s->opts, *end = s->opts + s->len;
	u32 magic_len, n;

	(void)flags;
	if (s->no_syn)
		return -2;
	if (len < 2 || search[1] < 2 || search[1] > len)
		return -22;
	magic_len = search[1] - 2;
	if (magic_len != 0 && magic_len != 2 && magic_len != 4)
		return -22;
	while (op < end) {
		if (*op == 0)
			return -42;
		if (*op == 1) {
			op++;
			continue;
		}
		if (op + 1 >= end || op + op[1] > end || op[1] < 2)
			return -14;
		if (op[0] == search[0] && op[1] >= 2 + magic_len &&
		    !memcmp(op + 2, search + 2, magic_len)) {
			n = op[1];
			memcpy(result, op, n < len ? n : len);
			return n > len ? -28 : (int)n;
		}
		op += op[1];
	}
	return -42;
}

#include "siphash.h"
#define HK_SPEAKS HK_OPT_VERSION_MESSAGES
#include "option.h"

#endif
