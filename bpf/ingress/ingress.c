/* SPDX-License-Identifier: GPL-2.0 */
/*
 * hk_ingress, an XDP program: what a flood of VTL's packets does not get past. The fate of one packet, from top to bottom:
 *
 *   not VTL to one of this host's addresses, or not certain to be         PASS
 *   lengths, checksum, wire format or type are wrong                      DROP
 *   DATA of a known association                                           REDIRECT to its queue's AF_XDP socket, else PASS
 *   INIT without a cookie                                                 TX a COOKIE; PASS within the rate where that is signed,
 *                                                                         and what asks again
 *   INIT with a good cookie                                               PASS within the rate
 *   INIT with a bad one                                                   DROP
 *   what only a known association has a use for, of an unknown one        DROP
 *   DATA of an unknown one, STATELESS_RESET                               PASS within the rate: the engine answers, or knows it
 *
 * It keeps nothing of a packet but its share of a rate. What it drops the engine would have dropped, too, but for what is beyond
 * a rate; and what it answers the engine would have answered.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "siphash.h"
#include "ingress/layout.h"
#include "ingress/packet.h"
#include "ingress/vtl.h"
#include "ingress/maps.h"
#include "ingress/rates.h"
#include "ingress/cookie.h"
#include "ingress/crc32c.h"
#include "ingress/answer.h"

/* Where there was no room for all, each may be. */
static __always_inline int hk_is_known(const struct hk_packet *p, __be64 id)
{
	u32 way = p->way;
	struct hk_way_state *state;

	if (hk_known.lookup(&id))
		return 1;
	state = hk_states.lookup(&way);
	return state && state->unnamed;
}

/* Those whose association can only be asked about by the engine. */
static __always_inline int hk_unknown(const struct hk_packet *p, const struct hk_ingress_settings *s)
{
	if (hk_is_within(p, s, HK_RATE_UNKNOWN, bpf_ktime_get_ns()))
		return hk_say(XDP_PASS, HK_I_PASS_UNKNOWN);
	return hk_say(XDP_DROP, HK_I_DROP_UNKNOWN_RATE);
}

/*
 * To that interface, and no other: the kernel takes no frame that is another host's, nor an answer one to all. What a device above
 * this one hears under an address of its own is the kernel's, too.
 */
static __always_inline int hk_is_for_us(struct xdp_md *ctx)
{
	u32 interface = ctx->ingress_ifindex;
	struct ethhdr *eth = hk_at(ctx, 0, sizeof(*eth));
	struct hk_link *own = hk_links.lookup(&interface);
	int i;

	if (!eth || eth->h_dest[0] & 1)
		return 0;
#pragma unroll
	for (i = 0; i < ETH_ALEN; i++)
		if (own && eth->h_dest[i] != own->address[i])
			return 0;
	return 1;
}

/* The engine's socket for the queue that this frame came by takes it. */
static __always_inline int hk_is_led(struct xdp_md *ctx)
{
	struct hk_queue queue = {.interface = ctx->ingress_ifindex, .number = ctx->rx_queue_index};
	u32 *slot = hk_queues.lookup(&queue);

	return slot && hk_xsk.redirect_map(*slot, XDP_PASS) == XDP_REDIRECT;
}

static __always_inline int hk_data(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_ingress_settings *s, __be64 id)
{
	if (p->size == HK_VTL_SHORT_HEADER)	/* empty */
		return hk_say(XDP_DROP, HK_I_DROP_MALFORMED);
	if (!hk_is_known(p, id))
		return hk_unknown(p, s);
	if (p->way == HK_INGRESS_IP && p->bare && hk_is_led(ctx))
		return hk_say(XDP_REDIRECT, HK_I_REDIRECT);
	return hk_say(XDP_PASS, HK_I_PASS_KNOWN);
}

/* Somebody's own address: an answer there goes to one host. */
static __always_inline int hk_is_a_host(const struct hk_packet *p)
{
	struct hk_address from = p->from;
	u8 v4 = bpf_ntohl(from.of[3]) >> 24, v6 = bpf_ntohl(from.of[0]) >> 24;

	if (p->v6 ? v6 == 0xff || v6 == 0 : v4 == 0 || v4 == 127 || v4 >= 224)
		return 0;
	return !hk_addresses.lookup(&from);
}

/*
 * Whether an answer would get back by the way that the INIT came: a tag that the card has taken off the frame would be missing, and
 * one that is there may be of a VLAN that this host has not, if the address is the interface's itself; and what a virtual link has not summed up, generic mode would sum up once more.
 */
static __always_inline int hk_can_answer(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_ingress_settings *s,
					 const struct hk_ingress_way *w, u32 interface)
{
	if (w->keyed || !w->versions_n || w->versions_n > HK_INGRESS_VERSIONS || !p->bare)
		return 0;
	if (!p->tagged != (interface == ctx->ingress_ifindex))
		return 0;
	if (s->generic && hk_is_partial(p))
		return 0;
	return hk_is_a_host(p);
}

/* XDP_TX: the frame is a COOKIE now. XDP_DROP: it was damaged. XDP_PASS: the engine has to answer. */
static __always_inline int hk_first_init(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_ingress_settings *s,
					 const struct hk_ingress_way *w, __be64 initiator, u32 interface)
{
	u32 zero = 0, slot = bpf_ntohll(initiator) % HK_INGRESS_SLOTS;
	u64 *answered = hk_answered.lookup(&slot);
	struct hk_answer *a = hk_answers.lookup(&zero);
	struct hk_table *t = hk_crc32c.lookup(&zero);

	if (!a || !t || !answered || !hk_can_answer(ctx, p, s, w, interface))
		return XDP_PASS;
	if (*answered == initiator)	/* and it has not heard: perhaps nothing that is sent here arrives */
		return XDP_PASS;
	if (p->way == HK_INGRESS_IP && p->size > HK_CRC_MOST)
		return XDP_PASS;
	if (p->way == HK_INGRESS_IP && !hk_crc_is_right(ctx, p, t))
		return XDP_DROP;
	*answered = initiator;
	hk_make_cookie(a, p, s, w, initiator, bpf_ktime_get_ns());
	if (p->way == HK_INGRESS_IP)
		hk_add_crc(a, t);
	return hk_answer(ctx, p, a);
}

static __always_inline int hk_init(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_ingress_settings *s,
				   const struct hk_ingress_way *w, u32 interface)
{
	struct hk_vtl_init *init = hk_at(ctx, p->vtl_at, sizeof(*init));
	u64 now = bpf_ktime_get_ns();
	int verdict;

	if (p->size < HK_INIT_LEAST)
		return hk_say(XDP_DROP, HK_I_DROP_MALFORMED);
	if (!init)
		return hk_say(XDP_PASS, HK_I_PASS_OTHER);
	if (sizeof(*init) + 4 * init->versions_n > p->size)
		return hk_say(XDP_DROP, HK_I_DROP_MALFORMED);
	if (!init->cookie_mac && !init->cookie_time) {
		verdict = hk_first_init(ctx, p, s, w, init->header.number, interface);
		if (verdict == XDP_TX)
			return hk_say(verdict, HK_I_TX_COOKIE);
		if (verdict == XDP_DROP)
			return hk_say(verdict, HK_I_DROP_CHECKSUM);
		if (hk_is_within(p, s, HK_RATE_INIT, now))
			return hk_say(XDP_PASS, HK_I_PASS_INIT);
		return hk_say(XDP_DROP, HK_I_DROP_INIT_RATE);
	}
	if (!hk_cookie_is_good(p, w, init, now))
		return hk_say(XDP_DROP, HK_I_DROP_COOKIE);
	if (hk_is_within(p, s, HK_RATE_PROVEN, now))
		return hk_say(XDP_PASS, HK_I_PASS_PROVEN);
	return hk_say(XDP_DROP, HK_I_DROP_PROVEN_RATE);
}

/* COOKIE, INIT_ACK, CLOSE: they name the association that they are for. */
static __always_inline int hk_addressed(struct xdp_md *ctx, const struct hk_packet *p, u8 type, __be64 id)
{
	struct hk_vtl_cookie *cookie = hk_at(ctx, p->vtl_at, HK_COOKIE_FIXED);
	struct hk_vtl_init_ack *ack = hk_at(ctx, p->vtl_at, sizeof(*ack));
	u32 least = HK_CLOSE;

	if (type == HK_VTL_COOKIE)
		least = HK_COOKIE_FIXED + (cookie ? 4 * cookie->versions_n : 0);
	if (type == HK_VTL_INIT_ACK)
		least = sizeof(*ack) + (ack ? 4 * ack->versions_n : 0);
	if (p->size < least)
		return hk_say(XDP_DROP, HK_I_DROP_MALFORMED);
	if (!hk_is_known(p, id))
		return hk_say(XDP_DROP, HK_I_DROP_UNKNOWN);
	return hk_say(XDP_PASS, HK_I_PASS_KNOWN);
}

/* A VTL datagram to this host, which has that address on that interface. */
static __always_inline int hk_vtl(struct xdp_md *ctx, const struct hk_packet *p, const struct hk_ingress_settings *s, u32 interface)
{
	const struct hk_ingress_way *w = &s->ways[p->way & 1];
	struct hk_vtl_short *h = hk_at(ctx, p->vtl_at, sizeof(*h));
	struct hk_vtl *full;
	u8 type;

	if (p->size < HK_VTL_SHORT_HEADER)
		return hk_say(XDP_DROP, HK_I_DROP_MALFORMED);
	if (!h)
		return hk_say(XDP_PASS, HK_I_PASS_OTHER);
	if (h->first >> 4 != HK_VTL_WIRE)
		return hk_say(XDP_DROP, HK_I_DROP_WIRE);
	type = h->first & 15;
	if ((type & ~1) == HK_VTL_DATA)
		return hk_data(ctx, p, s, h->to_id);
	if (type == HK_VTL_RESET)	/* it names the peer's id */
		return hk_unknown(p, s);
	if (type & HK_VTL_SHORT)
		return hk_say(XDP_DROP, HK_I_DROP_TYPE);
	full = hk_at(ctx, p->vtl_at, sizeof(*full));
	if (p->size < HK_VTL_HEADER)
		return hk_say(XDP_DROP, HK_I_DROP_MALFORMED);
	if (!full)
		return hk_say(XDP_PASS, HK_I_PASS_OTHER);
	if (type == HK_VTL_INIT)
		return hk_init(ctx, p, s, w, interface);
	if (type == HK_VTL_COOKIE || type == HK_VTL_INIT_ACK || type == HK_VTL_CLOSE)
		return hk_addressed(ctx, p, type, full->to_id);
	return hk_say(XDP_DROP, HK_I_DROP_TYPE);
}

int hk_ingress(struct xdp_md *ctx)
{
	u32 zero = 0;
	struct hk_ingress_settings *s = hk_settings.lookup(&zero);
	struct hk_packet *p = hk_packets.lookup(&zero);
	enum hk_read r;
	u32 *interface;

	if (!s || !p)
		return XDP_PASS;
	r = hk_read_packet(ctx, p, s);
	if (r == HK_OTHER)
		return hk_say(XDP_PASS, HK_I_PASS_OTHER);
	if (r == HK_FRAGMENT)
		return hk_say(XDP_PASS, HK_I_PASS_FRAGMENT);
	interface = hk_addresses.lookup(&p->to);
	if (!interface || !hk_is_for_us(ctx))
		return hk_say(XDP_PASS, HK_I_PASS_ELSEWHERE);
	if (r == HK_MALFORMED)
		return hk_say(XDP_DROP, HK_I_DROP_MALFORMED);
	if (r == HK_DAMAGED)
		return hk_say(XDP_DROP, HK_I_DROP_CHECKSUM);
	return hk_vtl(ctx, p, s, *interface);
}
