"""How this build sees the records it shares with the kernel programs: a test compares it with what BCC made."""

from hooker.includes.hk cimport (
    HK_MARK_BASE, HK_MARK_OTHER, HK_MARK_OWN, hk_attention, hk_event, hk_frame, hk_key, hk_peer, hk_redirect,
    hk_flow, hk_warm,
)

MARK_BASE = <unsigned int>HK_MARK_BASE
"""Marks of hooked application sockets begin with it (hooker/control/marks.py)."""
MARK_OTHER = <unsigned int>HK_MARK_OTHER
"""A bit of it that routing does not look at."""
MARK_OWN = <unsigned int>HK_MARK_OWN
"""Mark of the engines' own sockets."""


def layout():
    """{struct: {field: offset in bytes, "": size in bytes}} of bpf/hooker_kern_user.h."""
    cdef hk_flow *g = NULL
    cdef hk_redirect *d = NULL
    cdef hk_event *e = NULL
    cdef hk_key *k = NULL
    cdef hk_frame *r = NULL
    cdef hk_peer *p = NULL
    cdef hk_attention *a = NULL
    cdef hk_warm *v = NULL
    return {
        "hk_flow": {
            "": sizeof(hk_flow), "flow_id": <size_t>&g.flow_id, "marked": <size_t>&g.marked,
            "marks": <size_t>&g.marks, "snd_una": <size_t>&g.snd_una, "snd_nxt": <size_t>&g.snd_nxt,
            "rcv_nxt": <size_t>&g.rcv_nxt, "snd_wnd": <size_t>&g.snd_wnd, "rcv_wnd": <size_t>&g.rcv_wnd,
            "ts_recent": <size_t>&g.ts_recent, "mss": <size_t>&g.mss, "app_closed": <size_t>&g.app_closed,
            "steered": <size_t>&g.steered, "closed_at": <size_t>&g.closed_at,
            "transport": <size_t>&g.transport, "rule": <size_t>&g.rule,
            "want": <size_t>&g.want, "hold": <size_t>&g.hold, "burst": <size_t>&g.burst,
            "control": <size_t>&g.control,
        },
        "hk_redirect": {
            "": sizeof(hk_redirect), "flow_id": <size_t>&d.flow_id, "redirected": <size_t>&d.redirected,
            "spill_at": <size_t>&d.spill_at, "passed": <size_t>&d.passed, "mode": <size_t>&d.mode,
            "spills": <size_t>&d.spills, "consumed": <size_t>&d.consumed, "resume": <size_t>&d.resume,
            "credit": <size_t>&d.credit, "allowed": <size_t>&d.allowed,
        },
        "hk_event": {
            "": sizeof(hk_event), "type": <size_t>&e.type, "slot": <size_t>&e.slot, "flow_id": <size_t>&e.flow_id,
            "key": <size_t>&e.key, "client_nonce": <size_t>&e.client_nonce,
            "server_nonce": <size_t>&e.server_nonce, "cookie": <size_t>&e.cookie, "snd_nxt": <size_t>&e.snd_nxt, "rcv_nxt": <size_t>&e.rcv_nxt,
            "snd_wnd": <size_t>&e.snd_wnd, "rcv_wnd": <size_t>&e.rcv_wnd, "rtt_us": <size_t>&e.rtt_us,
            "ts_recent": <size_t>&e.ts_recent, "peer_port": <size_t>&e.peer_port, "mss": <size_t>&e.mss, "role": <size_t>&e.role,
            "snd_wscale": <size_t>&e.snd_wscale, "rcv_wscale": <size_t>&e.rcv_wscale,
            "tcp_options": <size_t>&e.tcp_options, "early": <size_t>&e.early,
            "cooled": <size_t>&e.cooled, "transport": <size_t>&e.transport, "rule": <size_t>&e.rule,
        },
        "hk_key": {
            "": sizeof(hk_key), "local_ip": <size_t>&k.local_ip, "remote_ip": <size_t>&k.remote_ip,
            "local_port": <size_t>&k.local_port, "remote_port": <size_t>&k.remote_port, "zero": <size_t>&k.zero,
        },
        "hk_frame": {
            "": sizeof(hk_frame), "flow_id": <size_t>&r.flow_id, "length": <size_t>&r.length,
            "magic": <size_t>&r.magic,
        },
        "hk_attention": {"": sizeof(hk_attention), "state": <size_t>&a.state, "lost": <size_t>&a.lost,
                         "blocked": <size_t>&a.blocked, "crowded": <size_t>&a.crowded, "looked": <size_t>&a.looked},
        "hk_warm": {"": sizeof(hk_warm), "since": <size_t>&v.since, "instance": <size_t>&v.instance, "cooled": <size_t>&v.cooled},
        "hk_peer": {"": sizeof(hk_peer), "ip": <size_t>&p.ip, "port": <size_t>&p.port, "zero": <size_t>&p.zero},
    }
