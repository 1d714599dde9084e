/* SPDX-License-Identifier: GPL-2.0 */
/* Headers of VTL, wire format 2 (docs/vtl.md, 1 and 2). */
#define HK_VTL_WIRE 2
#define HK_VTL_INIT 1
#define HK_VTL_COOKIE 2
#define HK_VTL_INIT_ACK 3
#define HK_VTL_CLOSE 6
#define HK_VTL_DATA 8			/* and 9 */
#define HK_VTL_RESET 10
#define HK_VTL_SHORT 8			/* bit of the types with the short header */
#define HK_INIT_LEAST 128		/* bytes of an INIT */
#define HK_VTL_HEADER 20
#define HK_VTL_SHORT_HEADER 13
#define HK_CLOSE 24			/* header and reason */

struct hk_vtl {				/* of all but DATA and STATELESS_RESET */
	u8 first;			/* wire format << 4 | type */
	u8 phase;
	u16 zero;
	__be64 to_id;
	__be64 number;
} __attribute__((packed));

struct hk_vtl_short {
	u8 first;
	__be64 to_id;
	__be32 number;
} __attribute__((packed));

struct hk_vtl_init {
	struct hk_vtl header;		/* number: the initiator's connection id */
	u8 versions_n;
	u8 function;
	u16 zero;
	__be32 ack_delay;
	__be64 max_data, max_stream_data;
	__be64 cookie_id, cookie_time, cookie_mac;
} __attribute__((packed));

struct hk_vtl_cookie {
	struct hk_vtl header;		/* number: the responder's connection id */
	u8 versions_n;
	u8 zero[3];
	__be64 time, mac;
	__be32 versions[HK_INGRESS_VERSIONS];
} __attribute__((packed));
#define HK_COOKIE_FIXED (sizeof(struct hk_vtl_cookie) - 4 * HK_INGRESS_VERSIONS)

struct hk_vtl_init_ack {
	struct hk_vtl header;
	u8 rest[24];
	u8 versions_n;
	u8 function;
	u16 zero;
} __attribute__((packed));
