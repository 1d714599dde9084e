/* SPDX-License-Identifier: GPL-2.0 */
#define HK_ANSWER_WORDS ((sizeof(struct hk_vtl_cookie) + HK_CRC) / 4)

struct hk_due {				/* each on a cache line of its own */
	u64 at;				/* ns: when what has come so far would have come at its rate */
	u64 pad[7];
};

struct hk_queue {			/* a socket takes nothing that came by another one */
	u32 interface, number;
};

struct hk_link {
	u8 address[ETH_ALEN];
	u8 pad[2];
};

struct hk_answer {			/* to an INIT */
	union {
		struct hk_vtl_cookie cookie;
		u32 word[HK_ANSWER_WORDS];
	};
	u32 size;			/* bytes, with the CRC32C */
};

struct hk_table {			/* CRC32C (RFC 3720, B.4), four bytes at a time; the engine fills it */
	u32 of[4 * 256];
};

BPF_PERCPU_ARRAY(hk_packets, struct hk_packet, 1);	/* that in hand, and what goes back for it */
BPF_PERCPU_ARRAY(hk_answers, struct hk_answer, 1);
BPF_ARRAY(hk_settings, struct hk_ingress_settings, 1);
BPF_ARRAY(hk_states, struct hk_way_state, HK_INGRESS_WAYS);
BPF_F_TABLE("hash", u64, u8, hk_known, HK_INGRESS_KNOWN, BPF_F_NO_PREALLOC);	/* our connection ids, as on the wire */
BPF_F_TABLE("hash", struct hk_address, u32, hk_addresses, 4096, BPF_F_NO_PREALLOC);	/* this host's: on which interface */
BPF_F_TABLE("hash", u32, struct hk_link, hk_links, HK_INGRESS_QUEUES, BPF_F_NO_PREALLOC);	/* by the interface: its own address */
BPF_ARRAY(hk_sources, u64, HK_INGRESS_SLOTS);	/* by a hash of hk_prefix(): as hk_due */
BPF_ARRAY(hk_answered, u64, HK_INGRESS_SLOTS);	/* initiators' connection ids, by their last bits */
BPF_ARRAY(hk_together, struct hk_due, HK_RATES);
BPF_ARRAY(hk_crc32c, struct hk_table, 1);
BPF_XSKMAP(hk_xsk, HK_INGRESS_QUEUES);	/* the engine's AF_XDP sockets */
BPF_F_TABLE("hash", struct hk_queue, u32, hk_queues, HK_INGRESS_QUEUES, BPF_F_NO_PREALLOC);	/* which of them is whose */
BPF_PERCPU_ARRAY(hk_counters, u64, HK_I_COUNT);

/* A verdict, counted. */
static __always_inline int hk_say(int verdict, u32 why)
{
	u64 *n = hk_counters.lookup(&why);

	if (n)
		*n += 1;
	return verdict;
}
