/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the engine tells hk_ingress and hears from it. Byte order is that of the wire where the type says so.
 */
#define HK_INGRESS_UDP 0		/* the ways in; VTL over each has its own endpoint, secret and rates' share */
#define HK_INGRESS_IP 1			/* IP protocol 253 */
#define HK_INGRESS_WAYS 2
#define HK_INGRESS_VERSIONS 8		/* VTL_MAX_VERSIONS */
#define HK_INGRESS_QUEUES 64
#define HK_INGRESS_SLOTS (1 << 16)	/* of what a flood may overwrite: arrays, for a flood has always another key */
#define HK_INGRESS_KNOWN (1 << 17)	/* connection ids: those of two endpoints */

#define HK_RATE_INIT 0			/* INITs without a cookie that are not answered here */
#define HK_RATE_PROVEN 1		/* those with a good one: its source has been proven */
#define HK_RATE_UNKNOWN 2		/* packets of associations that nobody here knows */
#define HK_RATES 3

struct hk_rate {			/* nanoseconds; interval 0: no limit */
	u64 interval;			/* one packet in that */
	u64 burst;			/* as many as fit in there may come at once, and one more */
};

struct hk_ingress_way {
	u64 secret[2];			/* of the endpoint's cookies */
	__be32 versions[HK_INGRESS_VERSIONS];	/* spoken, as COOKIE lists them */
	u32 versions_n;
	__be16 port;			/* of UDP */
	u8 on;				/* VTL is there; 0: all passes */
	u8 keyed;			/* its answers are signed: they are the engine's */
};

struct hk_ingress_settings {
	struct hk_ingress_way ways[HK_INGRESS_WAYS];
	u64 id_secret[2];		/* of the connection ids in our COOKIEs */
	struct hk_rate each[HK_RATES];	/* of one source prefix */
	struct hk_rate all[HK_RATES];	/* of all together */
	u64 generic;			/* some interface has the program in generic mode */
};

struct hk_way_state {			/* the worker's, which changes it as it goes */
	u64 clock_behind;		/* ns: the endpoint's clock, behind CLOCK_MONOTONIC */
	u64 unnamed;			/* associations for whose ids there was no room in hk_known */
};

/* One for each verdict and reason. All that begin with "pass" go on to the kernel untouched. */
#define HK_INGRESS_COUNTERS(X)						\
	X(HK_I_PASS_OTHER, "pass-other")		/* no VTL of ours, as far as can be seen */ \
	X(HK_I_PASS_FRAGMENT, "pass-fragment")		/* of the IP packet */	\
	X(HK_I_PASS_ELSEWHERE, "pass-elsewhere")	/* to no address of this host, or of its interface */ \
	X(HK_I_PASS_KNOWN, "pass-known")		/* an association's */	\
	X(HK_I_PASS_UNKNOWN, "pass-unknown")		/* nobody's, within the rate */ \
	X(HK_I_PASS_INIT, "pass-init")			/* to be answered by the engine, within the rate */ \
	X(HK_I_PASS_PROVEN, "pass-proven")		/* an INIT with a good cookie */ \
	X(HK_I_DROP_MALFORMED, "drop-malformed")	/* lengths that contradict each other, cut headers */ \
	X(HK_I_DROP_CHECKSUM, "drop-checksum")		/* of the IPv4 header; of an INIT over IP, the CRC32C */ \
	X(HK_I_DROP_WIRE, "drop-wire")			/* another wire format */ \
	X(HK_I_DROP_TYPE, "drop-type")			/* no such type of packet */ \
	X(HK_I_DROP_UNKNOWN, "drop-unknown")		/* names an association that is not here */ \
	X(HK_I_DROP_UNKNOWN_RATE, "drop-unknown-rate")	/* the same, where the engine would have said so, beyond the rate */ \
	X(HK_I_DROP_COOKIE, "drop-cookie")		/* forged, or too old */ \
	X(HK_I_DROP_INIT_RATE, "drop-init-rate")	/* without a cookie, beyond the rate */ \
	X(HK_I_DROP_PROVEN_RATE, "drop-proven-rate")	/* with one */	\
	X(HK_I_TX_COOKIE, "tx-cookie")			/* answered here */	\
	X(HK_I_REDIRECT, "redirect")			/* to the socket of its queue */

#define HK_INGRESS_ENUM(name, text) name,
enum hk_ingress_counter { HK_INGRESS_COUNTERS(HK_INGRESS_ENUM) HK_I_COUNT };
