/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the kernel programs and the engine share: maps' keys and values, the TCP option, the frame
 * header. The programs include it, the Cython side takes its structs and constants from it by
 * `cdef extern`, and a test compares both with what BCC made of it.
 *
 * Byte order: fields are in host order unless their name ends in _be. Padding is explicit.
 */
#ifndef HOOKER_KERN_USER_H
#define HOOKER_KERN_USER_H

#include <linux/types.h>

/* ---- TCP option (RFC 6994: shared experimental kind with ExID) ---- */
#define HK_OPT_KIND 253
#define HK_OPT_LEN 16
#define HK_OPT_EXID 0x484b		/* "HK" */
#define HK_OPT_VERSION_SEGMENTS 4	/* of engines that take segments; see segments.c */
#define HK_OPT_VERSION_MESSAGES 5	/* of engines that take messages; see messages.c. Before: no list (2, 3), no flow protocol (1) */
#define HK_ROLE_CLIENT 1		/* SYN, and what follows until the server has spoken */
#define HK_ROLE_SERVER 2		/* SYN-ACK */
#define HK_ROLE_UNANSWERED 3		/* a client that has seen no option in the SYN-ACK, behind its SYN */

struct hk_option {
	__u8 kind;
	__u8 len;
	__u16 exid_be;
	__u8 version_role;		/* version << 4 | role */
	__u8 transport;			/* the server's: what it selects of the list, HK_TRANSPORT_* */
	__u16 port_be;			/* the server's: where its engine listens */
	__u64 nonce;			/* opaque; the server's begins with hk_config.instance */
} __attribute__((packed));

/*
 * In a client's option `transport` and `port_be` are one list of 24 bits: what it offers, 4 bits each, its first choice
 * first; 0 ends it. The server selects the first that it takes. Once it has, the client repeats only that.
 */
#define HK_OFFER_MOST 6

#define HK_TRANSPORT_NONE 0		/* the server's: there is an engine, but not for this service */
#define HK_TRANSPORT_VTL 1		/* over UDP */
#define HK_TRANSPORT_VTL_UDPLITE 2
#define HK_TRANSPORT_VTL_DCCP 3
#define HK_TRANSPORT_VTL_IP 4
#define HK_TRANSPORT_UDP 5
#define HK_TRANSPORT_UDPLITE 6
#define HK_TRANSPORT_DCCP 7
#define HK_TRANSPORT_IP 8
#define HK_TRANSPORT_SCTP 9
#define HK_TRANSPORT_QUIC 10
#define HK_TRANSPORT_MPTCP 11
#define HK_TRANSPORT_TCP 12
#define HK_TRANSPORT_NAMED 13		/* by a name that both engines have been given */
#define HK_TRANSPORT_OTHERS 255		/* the server's: it takes none of those offered */

/* ---- flow record: a cache line for each writer ---- */
#define HK_APP_CLOSED 1			/* in order, or by an error that it knows of */
#define HK_APP_ABORTED 2		/* by itself, with a RST on the wire */
#define HK_APP_LINGERS 3		/* a TIME_WAIT is left, with the mark, or what will become one */
#define HK_APP_RESET 4			/* by the peer, and it knows */

/* What a marked socket's congestion control is for. */
#define HK_CONTROL_NONE 0		/* nothing: the transport knows what its path takes, and takes no more */
#define HK_CONTROL_OWN 1		/* all: the transport repairs nothing */
#define HK_CONTROL_QUEUE 2		/* a queue of the kernel's, which sockets without limits would fill */

#define HK_WANT_TCP 0			/* the application's own mark: its segments go by the wire. It may be engaged soon */
#define HK_WANT_MARK 1			/* our mark, with the next segment */
#define HK_WANT_NEVER 2			/* as HK_WANT_LEFT, for good: the programs do not look again */
#define HK_WANT_LEFT 3			/* as HK_WANT_TCP, and with the application's own congestion control: it was given up */

#define HK_HOLD_NONE 0			/* payload and FIN go where they are routed */
#define HK_HOLD_ALL 1			/* nowhere */
#define HK_HOLD_WIRE 2			/* by our device only */

#define HK_STEERED_ROUTE 1		/* the application chooses a route */
#define HK_STEERED_SIGNED 2		/* TCP-MD5 (RFC 2385), TCP-AO (RFC 5925): the engine has no key */
#define HK_STEERED_REPAIR 3		/* TCP_REPAIR: the connection moves to another socket, and this one goes in silence */
#define HK_STEERED_STALLED 4		/* its segments wait at the device, and the engine does not come to read them */
#define HK_STALLED_NS 1200000000ull	/* for so long */
#define HK_REFUSED 2			/* or its queue is full each time that the kernel tries: at least so often, */
#define HK_REFUSED_MOST 9		/* and at most */

struct hk_flow {
	/* written by the kernel programs */
	__u64 flow_id;			/* generation << 32 | slot */
	__u32 marked;			/* the socket carries our mark: segments from now on come by the device */
	__u32 marks;			/* twice for each time; odd while the numbers of that time are written */
	__u32 snd_una;			/* of the socket, when it was marked: before the segment that brought it about */
	__u32 snd_nxt;
	__u32 rcv_nxt;
	__u32 snd_wnd;			/* bytes beyond snd_una that the peer's TCP granted it */
	__u32 rcv_wnd;			/* bytes beyond rcv_nxt that it granted */
	__u32 ts_recent;		/* the peer's last timestamp (RFC 7323), kept up to date while it is marked; 0: none */
	__u32 mss;			/* bytes of payload in a segment, on the wire; options but timestamps come off */
	__u32 app_closed;		/* the application's socket reached CLOSE: HK_APP_* */
	__u32 steered;			/* HK_STEERED_*: `want` is HK_WANT_NEVER, whatever it says; do not inject */
	__u32 closed_at;		/* HK_APP_LINGERS: its rcv_nxt once it has the peer's FIN */
	__u32 transport;		/* HK_TRANSPORT_*, as selected in the handshake; NONE: the server has said nothing */
	__u32 rule;			/* of hk_config */
	/* written by the engine */
	__u32 want;			/* HK_WANT_*; the kernel writes HK_WANT_TCP when it opens the record */
	__u32 hold;			/* HK_HOLD_*; the kernel writes the first, and does not look again after HK_HOLD_NONE */
	__u32 burst;			/* segments that a socket begins with when it is marked before it has sent any; 0: as TCP does */
	__u32 control;			/* HK_CONTROL_*, with `want` */
	__u32 pad_engine[12];
};

#define HK_MODE_PASS 0			/* bytes go to the engine through TCP's own queue */
#define HK_MODE_REDIRECT 1		/* bytes go to the redirect socket, framed */

/*
 * What goes with it where messages are redirected, in a map of its own, with the same slot: a cache line for each writer.
 * Positions count bytes from the socket's snd_nxt at ESTABLISHED.
 */
struct hk_redirect {
	/* written by the kernel programs */
	__u64 flow_id;			/* the flow's; whatever has another one is not this record's */
	__u64 redirected;		/* payload bytes sent to the redirect socket */
	__u64 spill_at;			/* value of `redirected` at the last change to PASS */
	__u64 passed;			/* payload bytes seen in PASS (statistics only) */
	__u32 mode;			/* HK_MODE_* */
	__u32 spills;
	__u64 pad_kernel[3];
	/* written by the engine */
	__u64 consumed;			/* redirected bytes that no longer use credit */
	__u64 resume;			/* bytes of the socket's TCP that the engine has taken: position in its stream */
	__u64 credit;			/* how far `redirected` may run ahead of `consumed` */
	__u32 allowed;			/* messages may be redirected; the kernel writes 0 when it opens the record */
	__u32 pad_allowed;
	__u64 pad_engine[4];
};

/* ---- frame on the redirect socket: this header, then `length` bytes ---- */
#define HK_FRAME_MAGIC 0x4b4f4f48	/* "HOOK" */

struct hk_frame {
	__u64 flow_id;
	__u32 length;
	__u32 magic;
};

/* ---- SOCKHASH key: the addressing of the connection (IPv4 as ::ffff:a.b.c.d) ---- */
struct hk_key {
	__u8 local_ip[16];
	__u8 remote_ip[16];
	__u16 local_port;
	__u16 remote_port;
	__u32 zero;
};

/* ---- policy ---- */
struct hk_prefix {			/* LPM trie key; IPv4 prefix p is 96 + p */
	__u32 prefix_len;
	__u8 ip[16];
};

struct hk_peer {			/* a service left to TCP for a while; port 0: the whole host */
	__u8 ip[16];
	__u16 port;
	__u16 zero;
};

/* A service, named by hk_peer, whose next connection is to be engaged from its first byte. */
struct hk_warm {
	__u64 since;			/* not before (ktime ns): its early data was not acknowledged in time */
	__u16 instance;			/* of the engine that answers for it */
	__u16 cooled;			/* so often since it was engaged */
	__u32 zero;
};

#define HK_RULES 16			/* 0 is for what no other one is for */

struct hk_rule {
	__u32 offer;			/* what is asked of servers: the list of the option; 0: nothing, it stays on TCP */
	__u16 transports;		/* that are taken from clients: a bit 1 << HK_TRANSPORT_* each */
	__u16 failed;			/* nothing is offered or taken, for the user's class that it had has failed */
};

struct hk_config {
	__u64 netns_cookie;		/* only this namespace's sockets; 0: any */
	__u64 server_secret[2];		/* SipHash key of the nonces in SYN-ACKs */
	__u64 client_secret[2];		/* of those in SYNs: not the same, for clients choose what servers hash */
	__u32 mark;			/* of hooked application sockets */
	__u16 instance;			/* of the engine, drawn at its start, never 0 */
	__u16 port;			/* the engine's */
	__u16 any_port;			/* bits: 1 the policy itself, 1 << n rule n. With any service's port */
	__u16 any_prefix;		/* with any host */
	__u8 rules_n;			/* beside rule 0 */
	__u8 no_ipv6;			/* it did not work in the start-up probe */
	__u8 busy;			/* there has been a candidate: segments may have to be held; set by the programs */
	__u8 closing;			/* the engine is about to end: no new flows */
	__u8 hold;			/* new flows begin with HK_HOLD_ALL */
	__u8 pinned;			/* new flows do not outlive the engine, unless it has let go of them */
	__u32 device;			/* our interface */
	__u32 hold_ms;			/* an engine that runs has let go of a held flow by then */
	__u32 device_mtu;		/* bytes: of the device's routes */
	struct hk_rule rules[HK_RULES];
};

#define HK_MARK_BASE 0x484b0000		/* marks of hooked application sockets: hooker/control/marks.py */
#define HK_MARK_OTHER 0x100		/* a bit of it that routing does not look at */
#define HK_MARK_MASK 0xffff0000		/* any socket with our base is not hooked again */
#define HK_MARK_OWN 0x484bffff		/* the engines' own sockets */

#define HK_ROOMY 8			/* segments: a window without a scale that leaves room for the option */

/* ---- what the worker says of itself ---- */
#define HK_ASLEEP 0			/* whatever comes must wake it */
#define HK_DOZING 1			/* looks at the event ring in HK_DOZE_NS, however it is woken */
#define HK_AWAKE 2			/* looks at the event ring before it sleeps */
#define HK_DOZE_NS 2000000

#define HK_BLOCKED_V4 1			/* marked segments do not reach the device, or what it gives no socket */
#define HK_BLOCKED_V6 2

struct hk_attention {
	__u32 state;
	__u32 lost;			/* events that found no room; written by the programs */
	__u32 blocked;			/* HK_BLOCKED_*, families whose lane is */
	__u32 crowded;			/* connections to warm services begin on TCP: others wait for their turn */
	__u64 looked;			/* when it last had the CPU: ns of CLOCK_MONOTONIC, each round of its loop */
};

/* ---- what hk_adopt answers ---- */
#define HK_ADOPT_DONE 1			/* in the SOCKHASH */
#define HK_ADOPT_BLOCKING 2		/* the application's file is blocking: its recv() would change */
#define HK_ADOPT_REFUSED 3		/* the map does not take it (kTLS, full) */
#define HK_ADOPT_GONE 4
#define HK_ADOPT_ZEROCOPY 5		/* SO_ZEROCOPY: its completions would never come */

/* ---- events (ring buffer) ---- */
#define HK_EVENT_SYN 1			/* a candidate connects: warm up the association */
#define HK_EVENT_ESTABLISHED 2		/* the flow has a record; it is on TCP, or held */
#define HK_EVENT_CLOSED 3		/* the application's socket reached CLOSE */
#define HK_EVENT_STEERED 4		/* the application wants what only TCP has: the record's `steered` */

struct hk_event {
	__u32 type;
	__u32 slot;
	__u64 flow_id;
	struct hk_key key;
	__u64 client_nonce;
	__u64 server_nonce;		/* 0: the SYN-ACK had none */
	__u64 cookie;			/* SO_COOKIE of the application's socket */
	__u32 snd_nxt;			/* of the application's socket at ESTABLISHED */
	__u32 rcv_nxt;
	__u32 snd_wnd;			/* what the peer's TCP granted it, bytes; 0: not known yet */
	__u32 rcv_wnd;			/* what it granted, bytes */
	__u32 rtt_us;			/* of the TCP handshake */
	__u32 ts_recent;		/* the peer's last timestamp (RFC 7323), with HK_TCP_TIMESTAMPS */
	__u16 peer_port;		/* the peer engine's port; 0: not known */
	__u16 mss;			/* the largest segment it takes, bytes of payload; 0: not known */
	__u8 role;			/* HK_ROLE_CLIENT or HK_ROLE_SERVER */
	__u8 snd_wscale;		/* of the application's socket */
	__u8 rcv_wscale;
	__u8 tcp_options;		/* HK_TCP_* */
	__u8 early;			/* the service is warm, the socket is marked behind the handshake */
	__u8 cooled;			/* of its hk_warm */
	__u8 transport;			/* SYN: what is asked for first, HK_TRANSPORT_* */
	__u8 rule;			/* SYN: of hk_config */
};

#define HK_TCP_SACK 1
#define HK_TCP_WSCALE 2
#define HK_TCP_TIMESTAMPS 4

/* ---- why a connection stayed on TCP, and what else is counted (per CPU) ---- */
#define HK_COUNTERS(X) \
	X(HK_C_CANDIDATE, "candidate") \
	X(HK_C_OWN, "own-socket") \
	X(HK_C_LOOPBACK, "loopback") \
	X(HK_C_NETNS, "other-namespace") \
	X(HK_C_OTHER_ENGINE, "other-engine") \
	X(HK_C_PORT, "port-not-in-policy") \
	X(HK_C_PREFIX, "address-not-in-policy") \
	X(HK_C_NO_IPV6, "ipv6-does-not-work-here") \
	X(HK_C_BLOCKED, "local-path-blocked") \
	X(HK_C_AVOIDED, "peer-remembered-as-tcp") \
	X(HK_C_MARKED, "socket-with-mark") \
	X(HK_C_BOUND, "socket-bound-to-device") \
	X(HK_C_MPTCP, "mptcp") \
	X(HK_C_SIGNED, "tcp-signed") \
	X(HK_C_REPAIR, "tcp-repair") \
	X(HK_C_FASTOPEN, "tcp-fast-open") \
	X(HK_C_SYN_UNANSWERED, "syn-with-option-unanswered") \
	X(HK_C_NOT_ASKED, "peer-did-not-ask") \
	X(HK_C_DECLINED, "peer-declines-service") \
	X(HK_C_NO_COMMON, "no-common-transport") \
	X(HK_C_NOT_OFFERED, "transport-not-offered") \
	X(HK_C_PROTOTYPE, "prototype-failed") \
	X(HK_C_NO_SPACE, "no-option-space") \
	X(HK_C_ECHO, "option-echoed") \
	X(HK_C_BAD_OPTION, "option-malformed") \
	X(HK_C_NO_SLOT, "flow-table-full") \
	X(HK_C_EVENT_LOST, "event-ring-full") \
	X(HK_C_HELD, "held") \
	X(HK_C_HELD_SEGMENT, "segment-held-back") \
	X(HK_C_REDIRECTED, "message-redirected") \
	X(HK_C_PASSED, "message-passed") \
	X(HK_C_SPILLED, "spilled") \
	X(HK_C_BLOCKING, "turned-blocking") \
	X(HK_C_ULP, "ktls") \
	X(HK_C_PUSH_FAILED, "push-failed") \
	X(HK_C_PULL_FAILED, "pull-failed") \
	X(HK_C_MARK_KEPT, "mark-kept-for-the-end") \
	X(HK_C_BIND_REFUSED, "device-binding-refused") \
	X(HK_C_SIGNING_REFUSED, "tcp-signing-refused") \
	X(HK_C_REPAIR_REFUSED, "tcp-repair-refused") \
	X(HK_C_FLOW, "flow") \
	X(HK_C_SOCKET_MARKED, "socket-marked") \
	X(HK_C_EARLY, "service-warm") \
	X(HK_C_SOCKET_UNMARKED, "socket-unmarked") \
	X(HK_C_STEERED, "socket-steered") \
	X(HK_C_STALLED, "engine-stood-still") \
	X(HK_C_STRANGER, "stranger-at-device") \
	X(HK_C_ZEROCOPY_REFUSED, "zerocopy-refused")

#define HK_ENUM(name, text) name,
enum hk_counter { HK_COUNTERS(HK_ENUM) HK_C_COUNT };
#undef HK_ENUM

#endif
