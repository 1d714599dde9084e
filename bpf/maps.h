/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The maps that both kinds of engine have. HK_MAX_FLOWS, a power of two, and HK_EVENT_PAGES come from the loader.
 */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif

#define HK_CC_NAME 16
#define HK_ANSWERED 0x10000		/* with the option: the path takes it */

struct hk_misses {			/* in a row, of a service: connections that only a SYN without our option had an answer to */
	u64 last_ns;			/* the last one's */
	u64 count;
};

struct hk_sock {			/* per hooked socket, gone with it */
	u64 flow_id;			/* 0: not established yet */
	u64 client_nonce;
	u32 slot;
	u32 snd_nxt;			/* at ESTABLISHED: where TCP's stream starts */
	u32 rcv_nxt;			/* and the other one */
	u8 role;
	u8 syn_sent;			/* so often, with our option */
	u8 left;			/* stays on TCP, reason counted */
	u8 plain_syns;			/* after those without it: 1, or 2 for more */
	u8 adopted;			/* is in the SOCKHASH, or about to be */
	u8 zerocopy;			/* the application has asked for SO_ZEROCOPY */
	u8 held;			/* payload is kept back, or kept to our device; see guard.c */
	u8 pinned;			/* the mark and `held` stay until the engine lets go */
	u8 early;			/* the next segment ends the handshake, and goes by the wire */
	u8 transport;			/* as selected; 0: not known */
	u8 rule;			/* of hk_config */
	u8 pad;
	char congestion[HK_CC_NAME];	/* what it had before we set reno, else empty */
	u64 aside_ns;			/* when that was */
	u64 connect_ns;
	u64 sent_ns;			/* its first segment by our device since the engine last looked; or held, its beginning */
	u64 order;			/* a barrier between `adopted` and `zerocopy` */
	u32 pmtu;			/* bytes: the path's, as the kernel knew it before our mark */
	u32 pad_pmtu;
	u32 app_mark[2];		/* the application's SO_MARK: [1] if our mark has HK_MARK_OTHER, else [0] */
};

BPF_SK_STORAGE(hk_socks, struct hk_sock);
BPF_F_TABLE("array", u32, struct hk_flow, hk_flows, HK_MAX_FLOWS, 1024 /* BPF_F_MMAPABLE */);
BPF_STACK(hk_free, u64, HK_MAX_FLOWS);	/* free flow ids: next generation << 32 | slot */
BPF_ARRAY(hk_conf, struct hk_config, 1);
BPF_HASH(hk_ports, u16, u16, 65536);	/* for whom: bits as in hk_config.any_port */
BPF_LPM_TRIE(hk_prefixes, struct hk_prefix, u16, 4097);	/* the same, and all of IPv4; shorter prefixes' bits are in those of longer ones, too */
BPF_TABLE("lru_hash", struct hk_key, u8, hk_refused, 1024);	/* handshakes whose SYN-ACK says no, for a counted reason */
BPF_TABLE("lru_hash", struct hk_peer, u64, hk_avoid, 4096);	/* until (ktime ns) */
BPF_TABLE("lru_hash", struct hk_peer, struct hk_warm, hk_warm, 4096);	/* the engine's */
BPF_TABLE("lru_hash", struct hk_peer, u32, hk_known, 4096);	/* of hosts, HK_ANSWERED or the port of a service whose path seems to drop the option */
BPF_TABLE("lru_hash", struct hk_peer, struct hk_misses, hk_missed, 4096);
BPF_F_TABLE("array", u32, struct hk_attention, hk_attention, 1, 1024 /* BPF_F_MMAPABLE */);
BPF_RINGBUF_OUTPUT(hk_events, HK_EVENT_PAGES);
BPF_PERCPU_ARRAY(hk_counters, u64, HK_C_COUNT);

static __always_inline void hk_count(u32 what)
{
	u64 *n = hk_counters.lookup(&what);

	if (n)
		*n += 1;
}

static __always_inline struct hk_config *hk_config(void)
{
	u32 zero = 0;

	return hk_conf.lookup(&zero);
}

/* The flow of a hooked socket, if its record is still the socket's own. */
static __always_inline struct hk_flow *hk_flow_of(struct hk_sock *st)
{
	u32 slot = st->slot;
	struct hk_flow *f;

	if (!st->flow_id)
		return 0;
	f = hk_flows.lookup(&slot);
	return f && f->flow_id == st->flow_id ? f : 0;
}
