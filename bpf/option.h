/* SPDX-License-Identifier: GPL-2.0 */
/* Our option in TCP headers: write, read, check. HK_SPEAKS is the version, and so the kind of engine. */

static __always_inline int hk_option_put(struct bpf_sock_ops *s, u8 role, u8 transport, u16 port, u64 nonce)
{
	struct hk_option o = {
		.kind = HK_OPT_KIND, .len = HK_OPT_LEN, .exid_be = bpf_htons(HK_OPT_EXID),
		.version_role = HK_SPEAKS << 4 | role, .transport = transport,
		.port_be = bpf_htons(port), .nonce = nonce,
	};

	return bpf_store_hdr_opt(s, &o, sizeof(o), 0);
}

static __always_inline int hk_option_ask(struct bpf_sock_ops *s, u8 role, u32 offer, u64 nonce)
{
	return hk_option_put(s, role, offer >> 16, offer, nonce);
}

static __always_inline int hk_option_answer(struct bpf_sock_ops *s, struct hk_config *c, u8 transport, u64 nonce)
{
	return hk_option_put(s, HK_ROLE_SERVER, transport, c->port, nonce);
}

/* 0 and the option, or negative: none (-ENOMSG), or not what we speak (-EPROTO). */
static __always_inline int hk_option_load(struct bpf_sock_ops *s, struct hk_option *o, u64 flags)
{
	long r;

	__builtin_memset(o, 0, sizeof(*o));
	o->kind = HK_OPT_KIND;
	o->len = 4;				/* search by kind and ExID */
	o->exid_be = bpf_htons(HK_OPT_EXID);
	r = bpf_load_hdr_opt(s, o, sizeof(*o), flags);
	if (r < 0)
		return r == -2 /* ENOENT: no SYN kept */ ? -42 : r;
	if (r != HK_OPT_LEN || o->len != HK_OPT_LEN || o->version_role >> 4 != HK_SPEAKS) {
		hk_count(HK_C_BAD_OPTION);
		return -71;			/* EPROTO */
	}
	return 0;
}

static __always_inline int hk_option_role(struct hk_option *o)
{
	return o->version_role & 0xf;
}

/* A client's list. */
static __always_inline u32 hk_option_offer(struct hk_option *o)
{
	return (u32)o->transport << 16 | bpf_ntohs(o->port_be);
}

/* The first of the list for which there is a bit in `takes`; 0: there is none. */
static __always_inline u32 hk_select(u32 offer, u32 takes)
{
	u32 id, i;

	for (i = 0; i < HK_OFFER_MOST; i++) {
		id = offer >> (20 - 4 * i) & 0xf;
		if (!id)
			return 0;
		if (takes >> id & 1)
			return id;
	}
	return 0;
}

/* Whether a server may have selected it. */
static __always_inline int hk_is_offered(u32 offer, u32 id)
{
	return id && id < 16 && hk_select(offer, 1u << id);
}

/* Of a connection that begins: no two sockets begin with the same words, and nobody else has the key. Never 0. */
static __always_inline u64 hk_client_nonce(struct hk_config *c, struct hk_key *k, u64 socket, u64 now)
{
	u64 words[7] = { [5] = socket, [6] = now };

	__builtin_memcpy(words, k, sizeof(*k));
	return hk_siphash(c->client_secret, words, 7) | 1;
}

/*
 * What the server answers with: only who has got the SYN-ACK can know it. Both addresses and ports are in it, so the same
 * client nonce sent from elsewhere gets another answer. No state: the ACK's is worked out again, with SYN cookies too.
 * Its first two octets say which run of which engine answers: a client commits itself only to one that it knows.
 */
static __always_inline u64 hk_server_nonce(struct hk_config *c, struct hk_key *k, u64 client_nonce)
{
	u64 words[6] = { [5] = client_nonce };

	__builtin_memcpy(words, k, sizeof(*k));
	words[0] = hk_siphash(c->server_secret, words, 6);
	__builtin_memcpy(words, &c->instance, sizeof(c->instance));
	return words[0];
}
