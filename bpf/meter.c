/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The wire meter of the test lab: counts what crosses a veth between two hosts, and can lose it.
 * Runs as clsact ingress and egress of one end, so both directions of the wire pass here.
 * Super-packets (GSO) are counted as they come: their payload is skb->len minus one set of headers,
 * and gso_segs tells how many packets they stand for.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#define HK_METER_TCP 0
#define HK_METER_VTL 1
#define HK_METER_OTHER 2
#define HK_METER_CLASSES 3
#define HK_METER_SYN_OPTION 3 /* only for `drop`: a SYN with an experimental TCP option (kind 253) */

struct hk_meter_count {
	u64 packets;   /* as they would cross a wire, super-packets taken apart */
	u64 payload;   /* bytes behind the TCP or UDP header */
	u64 payload_packets; /* packets with any payload */
	u64 dropped;   /* packets this program lost on request */
	u64 fin;
	u64 rst;
};

struct hk_meter_conf {
	u32 vtl_port;   /* host byte order */
	u32 drop;       /* bit (class): lose every packet of that class */
	u32 lose[HK_METER_CLASSES]; /* of 1000 packets of a class, super-packets counted as one */
	u32 pad;
};

BPF_PERCPU_ARRAY(hk_counts, struct hk_meter_count, HK_METER_CLASSES * 2);
BPF_ARRAY(hk_conf, struct hk_meter_conf, 2);

struct hk_meter_packet {
	u32 class;
	u32 payload;
	u32 fin;
	u32 rst;
	u32 marked_syn;
};

static __always_inline u32 hk_has_option(struct __sk_buff *skb, u32 off, u32 end)
{
	u8 kind, len;
	for (int i = 0; i < 20 && off < end; i++) {
		if (bpf_skb_load_bytes(skb, off, &kind, 1) || kind == 0)
			return 0;
		if (kind == 253)
			return 1;
		if (kind == 1) {
			off++;
			continue;
		}
		if (bpf_skb_load_bytes(skb, off + 1, &len, 1) || len < 2)
			return 0;
		off += len;
	}
	return 0;
}

static __always_inline void hk_parse_l4(struct __sk_buff *skb, u32 off, u8 proto, u32 port,
					struct hk_meter_packet *out)
{
	if (proto == IPPROTO_TCP) {
		u8 flags[2];
		if (bpf_skb_load_bytes(skb, off + 12, flags, 2))
			return;
		u32 head = off + (flags[0] >> 4) * 4;
		out->class = HK_METER_TCP;
		out->payload = skb->len > head ? skb->len - head : 0;
		out->fin = flags[1] & 1;
		out->rst = (flags[1] >> 2) & 1;
		out->marked_syn = (flags[1] & 2) && hk_has_option(skb, off + 20, head);
	} else if (proto == IPPROTO_UDP) {
		__be16 ports[2];
		if (bpf_skb_load_bytes(skb, off, ports, 4))
			return;
		if (bpf_ntohs(ports[0]) == port || bpf_ntohs(ports[1]) == port) {
			out->class = HK_METER_VTL;
			out->payload = skb->len > off + 8 ? skb->len - off - 8 : 0;
		}
	}
}

static __always_inline void hk_parse_v6(struct __sk_buff *skb, u32 off, u8 next, u32 port,
					struct hk_meter_packet *out)
{
	u8 extension[2];
	for (int i = 0; i < 4 && (next == 0 || next == 43 || next == 60); i++) {
		if (bpf_skb_load_bytes(skb, off, extension, 2))
			return;
		next = extension[0];
		off += (extension[1] + 1) * 8;
	}
	hk_parse_l4(skb, off, next, port, out);
}

static __always_inline void hk_parse(struct __sk_buff *skb, u32 port, struct hk_meter_packet *out)
{
	u8 first, proto;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &first, 1) ||
			bpf_skb_load_bytes(skb, ETH_HLEN + 9, &proto, 1))
			return;
		hk_parse_l4(skb, ETH_HLEN + (first & 15) * 4, proto, port, out);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &proto, 1))
			return;
		hk_parse_v6(skb, ETH_HLEN + 40, proto, port, out);
	}
}

static __always_inline int hk_meter(struct __sk_buff *skb, u32 direction)
{
	struct hk_meter_conf *conf = hk_conf.lookup(&direction);
	if (!conf)
		return TC_ACT_OK;
	struct hk_meter_packet pkt = {.class = HK_METER_OTHER};
	hk_parse(skb, conf->vtl_port, &pkt);
	u32 key = direction * HK_METER_CLASSES + pkt.class;
	struct hk_meter_count *count = hk_counts.lookup(&key);
	if (!count)
		return TC_ACT_OK;
	u32 segs = skb->gso_segs ? skb->gso_segs : 1;
	u32 lose = pkt.class < HK_METER_CLASSES ? conf->lose[pkt.class] : 0;
	if ((lose && bpf_get_prandom_u32() % 1000 < lose) ||
		(conf->drop & (1 << pkt.class)) ||
		(pkt.marked_syn && (conf->drop & (1 << HK_METER_SYN_OPTION)))) {
		count->dropped += segs;
		return TC_ACT_SHOT;
	}
	count->packets += segs;
	count->payload += pkt.payload;
	count->payload_packets += pkt.payload ? segs : 0;
	count->fin += pkt.fin;
	count->rst += pkt.rst;
	return TC_ACT_OK;
}

int hk_meter_in(struct __sk_buff *skb)
{
	return hk_meter(skb, 0);
}

int hk_meter_out(struct __sk_buff *skb)
{
	return hk_meter(skb, 1);
}
