/* SPDX-License-Identifier: GPL-2.0 */
/* VTL's cookies (docs/vtl.md, 2.2), as hooker/vtl/cookie.pyx makes and believes them. */
#define HK_COOKIE_TICK 30		/* 2^30 ns */
#define HK_COOKIE_LIFETIME 16		/* ticks */

static __always_inline u64 hk_tick(u32 way, u64 now)
{
	struct hk_way_state *state = hk_states.lookup(&way);

	return (now - (state ? state->clock_behind : 0)) >> HK_COOKIE_TICK;
}

static __always_inline __be64 hk_cookie_mac(const struct hk_packet *p, const struct hk_ingress_way *w, __be64 initiator,
					    __be64 responder, __be64 time)
{
	u64 m[6] = {};

	__builtin_memcpy(m, &p->from, sizeof(p->from));
	m[2] = p->from_port;		/* its two bytes, and six of 0 */
	m[3] = initiator;
	m[4] = responder;
	m[5] = time;
	return bpf_htonll(hk_siphash(w->secret, m, 6));
}

static __always_inline int hk_cookie_is_good(const struct hk_packet *p, const struct hk_ingress_way *w,
					     const struct hk_vtl_init *init, u64 now)
{
	u64 age = hk_tick(p->way, now) - bpf_ntohll(init->cookie_time);

	return age <= HK_COOKIE_LIFETIME && init->cookie_id &&
	       init->cookie_mac == hk_cookie_mac(p, w, init->header.number, init->cookie_id, init->cookie_time);
}

/*
 * A connection id that nobody can guess who has seen others: bpf_get_prandom_u32() is no cipher, so it only makes them
 * different. 0 is never chosen.
 */
static __always_inline __be64 hk_new_id(const struct hk_packet *p, const struct hk_ingress_settings *s, __be64 initiator,
					u64 now)
{
	u64 m[5] = {};
	u64 id;

	__builtin_memcpy(m, &p->from, sizeof(p->from));
	m[2] = initiator;
	m[3] = now;
	m[4] = (u64)bpf_get_prandom_u32() << 32 | p->from_port;
	id = hk_siphash(s->id_secret, m, 5);
	return id ? id : 1;
}
