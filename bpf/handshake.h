/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sock_ops: sees every connection of the cgroup, negotiates inside the TCP
 * handshake and opens the flow record.
 *
 *   client: CONNECT → option in the SYN → ESTABLISHED: a flow → option on the ACKs that follow
 *   server: LISTEN → option in the SYN-ACK → ESTABLISHED: a flow if the ACK carried the option
 *
 * The ACK decides for the server. So listeners that were there before us (nobody wrote an option into
 * their SYN-ACK), SYN cookies, and a client that changed its mind all need no case of their own.
 */

/* What comes of it (marking.c, defer.c). */
static void hk_record_init(struct hk_flow *f, u64 id);
static void hk_begin(struct bpf_sock_ops *s, struct hk_sock *st, struct hk_event *e);	/* a new flow, not told yet */
static int hk_serves(u16 port);
static void hk_listens(u16 port, void *tp);
static int hk_segment_option(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st);	/* its role; 0: none */
static void hk_look_again(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk);
static void hk_segment_write(struct bpf_sock_ops *s, struct hk_config *c, struct hk_sock *st);

/*
 * Engines of other namespaces, and one of a cgroup further down, see the same sockets. The flags are one set per
 * socket, so who does not hook a socket must not touch them. The innermost cgroup's program runs first: a server's
 * socket that is its own has the flags that only hk_open() sets together.
 */
static __always_inline int hk_is_foreign(struct bpf_sock_ops *s, struct hk_config *c)
{
	u32 held = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG;

	if (hk_is_elsewhere(s, c))
		return 1;
	if ((s->bpf_sock_ops_cb_flags & held) != held)
		return 0;
	hk_count(HK_C_OTHER_ENGINE);
	return 1;
}

/* Whose socket this is; the cheap questions. 1: not ours to touch. */
static __always_inline int hk_excluded(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	if ((sk->mark & HK_MARK_MASK) == HK_MARK_BASE) {
		hk_count(HK_C_OWN);
		return 1;
	}
	if (hk_is_elsewhere(s, c)) {
		hk_count(HK_C_NETNS);
		return 1;
	}
	return 0;
}

static __always_inline int hk_is_mptcp(struct bpf_sock *sk)
{
	if (!bpf_skc_to_mptcp_sock(sk))
		return 0;
	hk_count(HK_C_MPTCP);
	return 1;
}

/* An application that chooses the route of its packets means the wire. */
static __always_inline int hk_is_steered(struct bpf_sock *sk)
{
	if (!sk->mark && !sk->bound_dev_if)
		return 0;
	hk_count(sk->mark ? HK_C_MARKED : HK_C_BOUND);
	return 1;
}

/*
 * The engine has no key to sign with (TCP-MD5, TCP-AO), and a socket under repair is another one's connection. On any doubt,
 * as about keys for other peers, it is TCP's.
 */
static __always_inline int hk_is_beyond_us(void *tp)
{
	if (!tp)
		return 0;
	if (hk_is_signed(tp)) {
		hk_count(HK_C_SIGNED);
		return 1;
	}
	if (hk_is_repaired(tp)) {
		hk_count(HK_C_REPAIR);
		return 1;
	}
	if (hk_has_route(tp)) {
		hk_count(HK_C_STEERED);
		return 1;
	}
	return 0;
}

static __always_inline void hk_emit_syn(struct hk_config *c, struct hk_key *k, u32 rule)
{
	struct hk_event *e = hk_event_new(HK_EVENT_SYN);

	if (!e)
		return;			/* only a warm-up is lost */
	e->key = *k;
	e->transport = hk_rule(c, rule)->offer >> 20;
	e->rule = rule;
	hk_submit(e, 0);
}

/* Why a rule has no transport for a connection. */
static __always_inline u32 hk_lack(const struct hk_rule *r)
{
	return r->failed ? HK_C_PROTOTYPE : HK_C_NO_COMMON;
}

static __always_inline void hk_connect(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	struct hk_key k = {};
	struct hk_sock *st = hk_socks.sk_storage_get(sk, 0, 0);
	void *tp = bpf_skc_to_tcp_sock(sk);
	u32 rule;

	if (st) {			/* used again, after an attempt that came to nothing */
		hk_cb_leave(s);
		hk_socks.sk_storage_delete(sk);
	}
	if (hk_excluded(s, c, sk) || !hk_port_matters(c, bpf_ntohl(s->remote_port)) || hk_is_mptcp(sk))
		return;
	hk_addresses(s, &k);
	if (!hk_candidate(c, &k) || hk_is_steered(sk) || hk_is_beyond_us(tp))
		return;
	if (tp && hk_leads_here(tp)) {
		hk_count(HK_C_LOOPBACK);
		return;
	}
	if (hk_avoided(&k)) {
		hk_count(HK_C_AVOIDED);
		return;
	}
	rule = hk_rule_for(c, &k, k.remote_port);
	if (!hk_rule(c, rule)->offer) {
		hk_count(hk_lack(hk_rule(c, rule)));
		return;
	}
	st = hk_socks.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return;
	__builtin_memset(st, 0, sizeof(*st));
	st->role = HK_ROLE_CLIENT;
	st->rule = rule;
	st->connect_ns = bpf_ktime_get_ns();
	st->client_nonce = hk_client_nonce(c, &k, bpf_get_socket_cookie(s), st->connect_ns);
	hk_count(HK_C_CANDIDATE);
	c->busy = 1;
	hk_cb_flags(s, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
	hk_emit_syn(c, &k, rule);
}

static __always_inline void hk_listen(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	void *tp = bpf_skc_to_tcp_sock(sk);
	u16 port = s->local_port;

	if (sk->mark || sk->bound_dev_if || !hk_port_listed(c, port))
		return;				/* its connections would not be hooked: say nothing to their clients */
	if (hk_is_elsewhere(s, c))
		return;
	if (bpf_skc_to_mptcp_sock(sk))
		return;
	if (tp)
		hk_listens(port, tp);
	hk_cb_flags(s, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

static __always_inline void hk_fill_tcp(struct hk_event *e, void *tp)
{
	u8 snd = *(volatile u8 *)(tp + HK_TCP_SND_WSCALE);
	u8 rcv = *(volatile u8 *)(tp + HK_TCP_RCV_WSCALE);
	u8 sack = *(volatile u8 *)(tp + HK_TCP_SACK_OK_BYTE);
	u8 flags = *(volatile u8 *)(tp + HK_TCP_TSTAMP_OK_BYTE);

	e->snd_wscale = snd >> HK_TCP_SND_WSCALE_SHIFT & 0xf;
	e->rcv_wscale = rcv >> HK_TCP_RCV_WSCALE_SHIFT & 0xf;
	e->ts_recent = *(volatile u32 *)(tp + HK_TCP_TS_RECENT);
	e->snd_wnd = *(volatile u32 *)(tp + HK_TCP_SND_WND);
	e->rcv_wnd = *(volatile u32 *)(tp + HK_TCP_RCV_WND);
	e->mss = *(volatile u16 *)(tp + HK_TCP_ADVMSS);
	if (sack & HK_TCP_SACK_OK_MASK)
		e->tcp_options |= HK_TCP_SACK;
	if (flags & HK_TCP_TSTAMP_OK_MASK)
		e->tcp_options |= HK_TCP_TIMESTAMPS;
	if (*(volatile u8 *)(tp + HK_TCP_WSCALE_OK_BYTE) & HK_TCP_WSCALE_OK_MASK)
		e->tcp_options |= HK_TCP_WSCALE;
}

/* A record and an event, the flow's beginning. */
static __always_inline void hk_open(struct bpf_sock_ops *s, struct bpf_sock *sk, struct hk_sock *st,
				    u64 server_nonce, u16 peer_port)
{
	struct hk_event *e;
	struct hk_flow *f;
	void *tp = bpf_skc_to_tcp_sock(sk);
	u32 slot;
	u64 id;

	if (!tp || hk_free.pop(&id)) {
		hk_count(HK_C_NO_SLOT);
		goto leave;
	}
	slot = id;
	f = hk_flows.lookup(&slot);
	if (!f)
		goto leave;
	e = hk_event_new(HK_EVENT_ESTABLISHED);
	if (!e) {
		hk_count(HK_C_EVENT_LOST);
		goto give_back;
	}
	hk_addresses(s, &e->key);
	st->flow_id = id;
	st->slot = slot;
	st->snd_nxt = s->snd_nxt;
	st->rcv_nxt = s->rcv_nxt;
	hk_record_init(f, id);
	f->transport = st->transport;
	f->rule = st->rule;
	e->slot = slot;
	e->flow_id = id;
	e->client_nonce = st->client_nonce;
	e->server_nonce = server_nonce;
	e->cookie = bpf_get_socket_cookie(s);
	e->peer_port = peer_port;
	e->snd_nxt = s->snd_nxt;
	e->rcv_nxt = s->rcv_nxt;
	e->rtt_us = s->srtt_us >> 3;
	e->role = st->role;
	hk_fill_tcp(e, tp);
	hk_cb_flags(s, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG |
		    (st->role == HK_ROLE_SERVER ? BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG : 0));
	hk_begin(s, st, e);			/* which may mark it: then it is asked at more */
	hk_submit(e, st->role == HK_ROLE_CLIENT);	/* the server's worker hears of it from the peer's */
	return;
give_back:
	hk_free.push(&id, BPF_EXIST);
leave:
	st->left = 1;
	hk_cb_leave(s);
}

/*
 * A SYN that was sent without our option is the only one that was answered. Was it the only one sent so, it may be the path
 * that drops the option. Were there more, then the server was busy or away, which has nothing to do with us.
 */
static __always_inline void hk_option_missed(struct bpf_sock_ops *s, struct hk_sock *st)
{
	struct hk_key k = {};
	struct hk_option o;

	hk_addresses(s, &k);
	if (!hk_option_load(s, &o, 0) && hk_option_role(&o) == HK_ROLE_SERVER) {
		hk_no_miss(&k);			/* it came, late */
		hk_remember(&k);
	} else if (st->plain_syns == 1)
		hk_miss(&k, st->connect_ns);
}

/* Why a connection is TCP's whose server has selected nothing that we have offered. */
static __always_inline u32 hk_refusal(u8 transport)
{
	switch (transport) {
	case HK_TRANSPORT_NONE:
		return HK_C_DECLINED;
	case HK_TRANSPORT_OTHERS:
		return HK_C_NO_COMMON;
	}
	return HK_C_NOT_OFFERED;
}

static __always_inline void hk_active(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	struct hk_sock *st = hk_socks.sk_storage_get(sk, 0, 0);
	struct hk_option o;
	struct hk_key k = {};
	int r;

	if (!st)
		return;
	if (st->left || !st->syn_sent) {
		if (st->plain_syns)
			hk_option_missed(s, st);
		hk_cb_leave(s);
		return;
	}
	if (hk_is_steered(sk) || hk_is_beyond_us(bpf_skc_to_tcp_sock(sk))) {	/* since connect() */
		st->left = 1;
		hk_cb_leave(s);
		return;
	}
	hk_addresses(s, &k);
	hk_no_miss(&k);
	r = hk_option_load(s, &o, 0);
	if (r || hk_option_role(&o) != HK_ROLE_SERVER) {
		if (!r)
			hk_count(HK_C_ECHO);
		/* No answer in the SYN-ACK: a listener older than its engine, or no engine at all. The engine knows. */
		hk_open(s, sk, st, 0, 0);
		return;
	}
	if (!hk_is_offered(hk_rule(c, st->rule)->offer, o.transport)) {
		hk_count(hk_refusal(o.transport));
		st->left = 1;
		hk_cb_leave(s);
		return;
	}
	st->transport = o.transport;
	hk_remember(&k);
	hk_open(s, sk, st, o.nonce, bpf_ntohs(o.port_be));
}

static __always_inline void hk_passive(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	struct hk_option o;
	struct hk_sock *st;
	struct hk_key k = {};
	u64 nonce = 0;
	u32 answered, transport, rule, role;

	if (!hk_port_listed(c, s->local_port) || hk_is_foreign(s, c))
		return;				/* its flags, too, are another engine's */
	answered = s->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;	/* the listener's */
	hk_cb_leave(s);
	hk_addresses(s, &k);
	role = hk_option_load(s, &o, 0) ? 0 : hk_option_role(&o);
	if ((role != HK_ROLE_CLIENT && role != HK_ROLE_UNANSWERED) || !o.nonce) {
		if (!hk_is_local(&k) && hk_prefix_listed(c, &k) && hk_refused.delete(&k))
			hk_count(HK_C_NOT_ASKED);	/* who was told no does not ask again */
		return;
	}
	if (hk_excluded(s, c, sk) || hk_is_mptcp(sk))
		return;
	if (!hk_candidate(c, &k) || hk_is_steered(sk) || hk_is_beyond_us(bpf_skc_to_tcp_sock(sk)))
		return;
	rule = hk_rule_for(c, &k, k.local_port);
	transport = hk_select(hk_option_offer(&o), hk_rule(c, rule)->transports);
	if (!transport) {
		hk_count(hk_lack(hk_rule(c, rule)));
		return;
	}
	st = hk_socks.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return;
	__builtin_memset(st, 0, sizeof(*st));
	st->role = HK_ROLE_SERVER;
	st->rule = rule;
	st->client_nonce = o.nonce;
	st->transport = transport;
	c->busy = 1;
	if (answered && role == HK_ROLE_CLIENT)		/* a SYN-ACK that is sent again has none: no SYN is kept for it */
		nonce = hk_server_nonce(c, &k, o.nonce);
	hk_open(s, sk, st, nonce, 0);
}

/* ---- header options ------------------------------------------------------------------------------- */

static __always_inline int hk_syn_option(struct bpf_sock_ops *s, struct hk_sock *st)
{
	if (st->left) {
		st->plain_syns += st->plain_syns < 2;
		return 0;
	}
	if (s->skb_len > 0) {			/* data in the SYN */
		st->left = 1;
		hk_count(HK_C_FASTOPEN);
		return 0;
	}
	if (st->syn_sent) {			/* unanswered: this path may drop our option, or nobody has room for us */
		struct hk_key k = {};

		hk_addresses(s, &k);
		if (st->syn_sent == 1 && hk_is_known(&k))
			return 1;		/* it did not before: an ordinary loss, probably */
		st->left = 1;
		st->plain_syns = 1;
		hk_count(HK_C_SYN_UNANSWERED);
		return 0;
	}
	return 1;
}

/*
 * Whether a connection to this service can be ours. A client with our answer may commit itself: say nothing that we could
 * not keep. It hears of a no, too, so that it does not hold its connection in vain.
 */
static __always_inline int hk_can_serve(struct hk_config *c, u16 port, struct hk_key *k)
{
	u64 id;

	if (!hk_serves(port))
		return 0;
	if (!hk_port_matters(c, port))		/* an engine before this one had others */
		return 0;
	if (!hk_prefix_listed(c, k)) {
		hk_count(HK_C_PREFIX);
		return 0;
	}
	if (c->no_ipv6 && !hk_is_ipv4(k)) {
		hk_count(HK_C_NO_IPV6);
		return 0;
	}
	if (hk_is_blocked(k)) {
		hk_count(HK_C_BLOCKED);
		return 0;
	}
	if (!hk_free.peek(&id))
		return 1;
	hk_count(HK_C_NO_SLOT);
	return 0;
}

/* The SYN-ACK's option. */
static __always_inline void hk_answer(struct bpf_sock_ops *s, struct hk_config *c, struct hk_option *asked)
{
	struct hk_key k = {};
	u32 transport, rule;
	u8 yes = 1;

	hk_addresses(s, &k);
	rule = hk_rule_for(c, &k, k.local_port);
	transport = hk_select(hk_option_offer(asked), hk_rule(c, rule)->transports);
	if (!transport) {
		if (!hk_refused.insert(&k, &yes))	/* no SYN-ACK sent again */
			hk_count(hk_lack(hk_rule(c, rule)));
		hk_option_answer(s, c, HK_TRANSPORT_OTHERS, 0);
	} else if (!hk_can_serve(c, s->local_port, &k)) {
		if (hk_serves(s->local_port))
			hk_refused.update(&k, &yes);
		hk_option_answer(s, c, HK_TRANSPORT_NONE, 0);
	} else {
		hk_option_answer(s, c, transport, hk_server_nonce(c, &k, asked->nonce));
	}
}

static __always_inline int hk_option_for(struct bpf_sock_ops *s, struct hk_config *c)
{
	struct bpf_sock *sk = s->sk;
	struct hk_sock *st;
	struct hk_option o;

	if (!sk) {			/* SYN-ACK: no full socket yet */
		if (c->closing || hk_is_elsewhere(s, c))
			return 0;	/* nobody's, or another engine's */
		if (hk_option_load(s, &o, BPF_LOAD_HDR_OPT_TCP_SYN) || hk_option_role(&o) != HK_ROLE_CLIENT)
			return 0;
		return HK_ROLE_SERVER;
	}
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st)
		return 0;
	if (s->skb_tcp_flags & 2 /* SYN */)
		return hk_syn_option(s, st) ? HK_ROLE_CLIENT : 0;
	if (s->state == 2 /* TCP_SYN_SENT */)	/* the kernel asks for the MSS before it sends the SYN again */
		return 0;
	return hk_segment_option(s, c, st);
}

static __always_inline void hk_reserve(struct bpf_sock_ops *s, struct hk_config *c)
{
	if (hk_option_for(s, c) && bpf_reserve_hdr_opt(s, HK_OPT_LEN, 0))
		hk_count(HK_C_NO_SPACE);
}

static __always_inline void hk_write(struct bpf_sock_ops *s, struct hk_config *c)
{
	struct bpf_sock *sk = s->sk;
	struct hk_option o;
	struct hk_sock *st;

	if (!sk) {
		if (!hk_is_elsewhere(s, c) && !hk_option_load(s, &o, BPF_LOAD_HDR_OPT_TCP_SYN))
			hk_answer(s, c, &o);
		return;
	}
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st)
		return;
	if (s->skb_tcp_flags & 2 /* SYN */) {
		u8 fastopen[16] = { 34 /* TCPOPT_FASTOPEN, RFC 7413 */ };

		if (bpf_load_hdr_opt(s, fastopen, sizeof(fastopen), 0) >= 0) {
			st->left = 1;		/* reserved space stays as padding */
			hk_count(HK_C_FASTOPEN);
			return;
		}
		if (!hk_option_ask(s, HK_ROLE_CLIENT, hk_rule(c, st->rule)->offer, st->client_nonce)) {
			st->syn_sent += 1;
		} else if (hk_option_load(s, &o, 0) != -42 /* ENOMSG */) {	/* of an engine of a cgroup further down, of any kind */
			hk_count(HK_C_OTHER_ENGINE);
			hk_socks.sk_storage_delete(sk);
		}
		return;
	}
	hk_segment_write(s, c, st);
}

static __always_inline void hk_emit_closed(struct hk_sock *st, int urgent)
{
	struct hk_event *e = hk_event_new(HK_EVENT_CLOSED);

	if (!e) {
		hk_count(HK_C_EVENT_LOST);
		hk_event_lost();
		return;
	}
	e->slot = st->slot;
	e->flow_id = st->flow_id;
	hk_submit(e, urgent);
}

static __always_inline void hk_state_changed(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	void *tp = bpf_skc_to_tcp_sock(sk);
	u32 old_state = s->args[0], how;
	struct hk_sock *st;
	struct hk_flow *f;

	if (s->args[1] != BPF_TCP_CLOSE || !tp)
		return;
	st = hk_socks.sk_storage_get(sk, 0, 0);
	if (!st || !st->flow_id)
		return;
	how = hk_how_closed(tp, old_state);
	f = hk_flow_of(st);
	if (f) {
		f->closed_at = s->rcv_nxt + (old_state == BPF_TCP_FIN_WAIT2 && !hk_has_fin(tp));
		*(volatile u32 *)&f->app_closed = how;		/* last: who sees it reads the other */
	}
	hk_emit_closed(st, how == HK_APP_ABORTED);
	hk_give_back(s, c, sk, st);
}

/* Whether a callback is worth a look: the kernel asks more than we have to say. */
static __always_inline int hk_concerns_us(struct bpf_sock_ops *s)
{
	switch (s->op) {
	case BPF_SOCK_OPS_TIMEOUT_INIT:
	case BPF_SOCK_OPS_RWND_INIT:
	case BPF_SOCK_OPS_NEEDS_ECN:
	case BPF_SOCK_OPS_BASE_RTT:
		return 0;
	}
	return s->family == 2 || s->family == 10;
}

static __always_inline void hk_handshake(struct bpf_sock_ops *s, struct hk_config *c, struct bpf_sock *sk)
{
	switch (s->op) {
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		hk_reserve(s, c);
		return;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		hk_write(s, c);
		return;
	case BPF_SOCK_OPS_RTO_CB:
		if (sk)
			hk_look_again(s, c, sk);
		return;
	}
	if (!sk || (c->closing && s->op != BPF_SOCK_OPS_STATE_CB))
		return;
	switch (s->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		hk_connect(s, c, sk);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		hk_listen(s, c, sk);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		hk_active(s, c, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		hk_passive(s, c, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		hk_state_changed(s, c, sk);
		break;
	}
}
