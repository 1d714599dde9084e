"""All metric families, as data: name, type, labels and meaning of each. docs/metrics.md has the same table.

Names are without ``hooker_``; a counter's without ``_total``. Each family also has the label ``engine``, but
for ``engines``.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    name: str
    kind: str  # counter, gauge, info or unknown, as OpenMetrics says it
    meaning: str
    labels: tuple[str, ...] = ()  # beside `engine`


INFO = (
    "pid",
    "version",
    "netns",
    "cgroup",
    "intercept",
    "transport",
    "congestion",
    "reliability",
    "redirect",
    "encrypted",
    "fec",
    "listen_port",
)  # of a snapshot's `engine`

OF_ENGINES = (
    Family("engines", "gauge", "Live engines of this user"),
    Family("up", "gauge", "Whether the engine has given its snapshot: 1, or 0"),
    Family("engine", "info", "What the engine is, as hooker status says it", INFO),
    Family("engine_uptime_seconds", "gauge", "Time since the engine's start"),
    Family("flows", "gauge", "Flows in the table, by state", ("state",)),
    Family("flow_reasons", "counter", "Flows that stayed on TCP, left or ended, by reason", ("reason",)),
    Family(
        "engaged_flow_ends",
        "counter",
        "Flows that ended or left after they were engaged",
        ("reason",),
    ),
    Family("kernel_events", "counter", "What the kernel programs decided and did, by name", ("event",)),
    Family(
        "ingress_packets",
        "counter",
        "Packets that the XDP program met, by verdict",
        ("verdict", "reason"),
    ),
    Family(
        "transport_state",
        "gauge",
        "1 for each transport that is offered, skipped, failed or troubled",
        ("transport", "state"),
    ),
    Family(
        "rule",
        "info",
        "Rules by order, and what they come to",
        ("rule", "for", "transport", "reliability"),
    ),
    Family("lane_blocked", "gauge", "Whether this host keeps segments from the engine", ("ip_version",)),
    Family("route_incomplete", "gauge", "Whether a rule or route to hk0 is missing"),
    Family("xdp_attached", "gauge", "Whether the XDP program is on the interface", ("interface", "mode")),
    Family("xdp_switched_on", "counter", "Floods that brought the XDP program there", ("interface",)),
    Family("xdp_queues", "gauge", "Queues of the interface that AF_XDP sockets read", ("interface",)),
    Family(
        "transport_left",
        "counter",
        "Datagrams sent as frames, or by the kernel and why",
        ("transport", "way"),
    ),
    Family("unlisted", "unknown", "Counts that this command has no name for", ("count",)),
)


def _gauge(name: str, meaning: str) -> Family:
    return Family(name, "gauge", meaning)


def _counter(name: str, meaning: str) -> Family:
    return Family(name, "counter", meaning)


# what the worker counts, by its name in a snapshot's `counters`
WORKER = {
    "opened": _counter("flows_opened", "Flows that were begun"),
    "engaged": _counter("flows_engaged", "Flows whose bytes went over to the transport"),
    "left": _counter("flows_left", "Flows that were given up and go back to TCP"),
    "closed": _counter("flows_closed", "Flows whose connections are over"),
    "given_up": _counter("flows_given_up", "Flows given up since their peer's engine is lost"),
    "early": _counter("flows_early", "Flows that were engaged from their first byte"),
    "starting": _gauge("flows_starting", "Clients' flows that are on their way to be engaged"),
    "closed_flows": _gauge("flows_kept_closed", "Flows that are over and kept for what is still on its way"),
    "starts_waited": _counter("starts_waited", "Flows that waited for their turn to be engaged"),
    "held_in_vain": _counter("held_in_vain", "Services whose held flows found no engine, each time"),
    "loops": _counter("loops", "Rounds of the worker's loop"),
    "segments": _counter("segments", "Segments read from hk0"),
    "segment_bytes": _counter("segment_bytes", "Bytes of segments read from hk0, with their headers"),
    "segments_refused": _counter("segments_refused", "Segments of hk0 that were not taken"),
    "segments_unknown": _counter("segments_unknown", "Segments of hk0 that belong to no flow"),
    "segments_bridged": _counter("segments_bridged", "Segments sent on to the wire before both ends agreed"),
    "segments_stale": _counter("segments_stale", "Segments that had waited for an engine that stood still"),
    "segments_older": _counter("segments_older", "Segments of an earlier connection with the same ports"),
    "segments_repeated": _counter("segments_repeated", "Segments sent to the wire again as a flow left"),
    "data_not_taken": _counter("data_not_taken", "Stretches of data that the transport did not take"),
    "early_kept": _counter("early_kept", "Stretches of data kept until their flow was there"),
    "early_on_wire": _counter("early_on_wire", "Flows whose first bytes went to the wire after all"),
    "aborts_failed": _counter("aborts_failed", "Sockets of pinned flows that the kernel would not end"),
    "peers_not_reached": _counter(
        "peers_not_reached", "Times that a connection's host was not asked for an engine: too many were"
    ),
    "early_opens": _counter("early_opens", "OPEN that came before the kernel told of its connection"),
    "services_cooled": _counter("services_cooled", "Times that a service lost its early flows"),
    "services_cut": _counter("services_cut", "Times that a service was left to TCP: segments got lost here"),
    "services_translated": _counter(
        "services_translated", "Of these, seen at once: this host translates their address"
    ),
    "blocks": _counter("blocks", "Blocks that came from peers"),
    "block_bytes": _counter("block_bytes", "Bytes of blocks that came from peers"),
    "injected": _counter("injected", "Segments given to the kernel"),
    "injected_bytes": _counter("injected_bytes", "Payload bytes of segments given to the kernel"),
    "acks": _counter("acks", "ACKs given to the kernel"),
    "probes": _counter("probes", "Probes given to the kernel"),
    "resets": _counter("resets", "RSTs given to the kernel"),
    "refused": _counter("refused", "Times that a peer was told to repeat by the wire"),
    "holes_told": _counter("holes_told", "Times that a peer was told which bytes are missing"),
    "holes_filled": _counter("holes_filled", "Stretches of zeros in place of what a peer has given up"),
    "bytes_zeroed": _counter("zeroed_bytes", "Zeros in place of what peers have given up"),
    "holes_untold": _counter("holes_untold", "Stretches of zeros without an event: they were too many"),
    "unknown_messages": _counter("unknown_messages", "Messages about flows that are not here"),
    "unproven": _counter("unproven", "OPEN and ACCEPT without proof of the handshake"),
    "bad_messages": _counter("bad_messages", "Messages that could not be read"),
    "channels_rested": _counter("channels_rested", "Channels given back by flows with nothing to say"),
    "twins_rested": _counter("twins_rested", "Twins given back by flows with nothing to say"),
    "turns": _counter("turns", "Rounds in which all flows of a peer hear of something"),
    "over_share": _counter("over_share", "Stretches of data that went without a copy, for want of room"),
    "trails": _counter("trails", "Flows that firewalls on the way are shown"),
    "trail_segments": _counter("trail_segments", "Bare segments that firewalls on the way are shown"),
    "lane_looks": _counter("lane_looks", "Looks whether hk0 is reached"),
    "lanes_blocked": _counter("lanes_blocked", "Times that hk0 was not reached"),
    "lanes_restored": _counter("lanes_restored", "Times that rules and routes to hk0 were put back"),
    "hk0_behind": _counter("hk0_behind", "Times that silence said nothing since hk0 was not read so far"),
    "tun_dropped": _counter("hk0_dropped", "Segments for hk0 that the kernel did not take"),
    "wire_errors": _counter("wire_errors", "Segments for the wire that the kernel did not take"),
    "frames": _counter("frames", "Redirected messages"),
    "frame_bytes": _counter("frame_bytes", "Bytes of redirected messages"),
    "redirect_reads": _counter("redirect_reads", "Reads of the redirect socket"),
    "bad_frames": _counter("bad_frames", "Times that the framing of redirected messages was lost"),
    "unknown_flow_frames": _counter("unknown_flow_frames", "Redirected messages of flows that are over"),
    "passed_bytes": _counter("passed_bytes", "Bytes of adopted flows that came as segments"),
    "passed_early": _counter("passed_early", "Segments of adopted flows, kept for those before them"),
    "passed_holes": _counter("passed_holes_bytes", "Bytes missing before segments of adopted flows"),
    "passed_not_taken": _counter("passed_not_taken", "Segments of adopted flows that were not taken"),
    "adopted": _counter("adopted", "Sockets whose messages may be redirected"),
    "adopt_blocking": _counter("adopt_blocking", "Sockets not adopted: they block"),
    "adopt_refused": _counter("adopt_refused", "Sockets not adopted: refused, or no memory"),
    "adopt_zerocopy": _counter("adopt_zerocopy", "Sockets not adopted: they send without copies"),
    "undelivered_bytes": _counter("undelivered_bytes", "Bytes acknowledged here that nobody brings any more"),
    "tap_errors": _counter("tap_errors", "Exceptions of the tap"),
    "tap_missed": _counter("tap_missed_bytes", "Bytes that the tap was not shown"),
    "event_errors": _counter("event_errors", "Exceptions of on_event"),
    "notices_lost": _counter("events_lost", "Events that nobody took in time"),
    "slabs": _gauge("slabs", "Slabs of memory that segments are read into"),
    "slabs_exhausted": _counter("slabs_exhausted", "Times that no slab was free"),
    "polls_hit": _counter("polls_hit", "Times that waiting awake was worth it"),
    "polls_missed": _counter("polls_missed", "Times that waiting awake was in vain"),
    "polls_crowded": _counter("polls_crowded", "Times of no waiting awake: others needed the CPU"),
}
IN_STATES = frozenset({"flows"})  # counters that are another family already

_T = ("transport",)


def _of(name: str, kind: str, meaning: str) -> Family:
    return Family(f"transport_{name}", kind, meaning, _T)


_SENT = _of("datagrams_sent", "counter", "Datagrams sent")
_RECEIVED = _of("datagrams_received", "counter", "Datagrams received")
_DAMAGED = _of("damaged", "counter", "What came damaged")
_REFUSED = _of("refused", "counter", "Associations or connections that were refused")
# what a transport counts, by its name in `counters` behind the transport's
TRANSPORT = {
    "send_calls": _of("send_calls", "counter", "System calls that send"),
    "recv_calls": _of("recv_calls", "counter", "System calls that receive"),
    "send_errors": _of("send_errors", "counter", "System calls that send and failed"),
    "datagrams_sent": _SENT,
    "sent": _SENT,
    "datagrams_received": _RECEIVED,
    "received": _RECEIVED,
    "datagrams_dropped": _of("datagrams_dropped", "counter", "Datagrams received that were of no use"),
    "packets_sent": _of("packets_sent", "counter", "Packets sent"),
    "packets_received": _of("packets_received", "counter", "Packets received"),
    "bytes_sent": _of("sent_bytes", "counter", "Bytes sent"),
    "bytes_received": _of("received_bytes", "counter", "Bytes received"),
    "gso": _of("gso", "gauge", "Whether several datagrams go by one system call"),
    "held": _of("held_bytes", "gauge", "Memory that peers make this engine hold"),
    "associations": _of("associations", "gauge", "Associations that there are"),
    "strangers": _of("strangers", "gauge", "Associations begun by peers and of no use yet"),
    "strangers_now": _of("strangers", "gauge", "Associations begun by peers and of no use yet"),
    "evicted": _of("evicted", "counter", "Associations begun by peers, given up for newer ones"),
    "over_budget": _of(
        "over_budget", "counter", "Times that something did not fit into the memory for peers"
    ),
    "accepted": _of("accepted", "counter", "Connections that peers began"),
    "asked": _of("asked", "counter", "Associations that peers asked for"),
    "welcomed": _of("welcomed", "counter", "Associations that peers began"),
    "greeted": _of("greeted", "counter", "Associations that peers began"),
    "refused": _REFUSED,
    "connections_refused": _REFUSED,
    "connects": _of("connects", "counter", "Associations begun here"),
    "connects_failed": _of("connects_failed", "counter", "Associations begun here that failed"),
    "broken": _of("broken", "counter", "Connections ended since their peer broke the protocol"),
    "fallbacks": _of("fallbacks", "counter", "Connections that fell back to TCP's own path"),
    "failed": _of("failed", "counter", "Times that the class has failed"),
    "damaged": _DAMAGED,
    "datagrams_damaged": _DAMAGED,
    "silent": _of("silent", "counter", "Peers that fell silent"),
    "other_names": _of("other_names", "counter", "Peers that run another class"),
    "unwanted": _of("unwanted", "counter", "What came and was not asked for"),
    "malformed": _of("malformed", "counter", "What could not be read"),
    "unknown": _of("unknown", "counter", "What belongs to no association here"),
    "elsewhere": _of("elsewhere", "counter", "What came from another address than its association's"),
    "unanswered": _of("unanswered", "counter", "Strangers not answered: they were too many"),
    "dropped": _of("dropped", "counter", "Packets that were dropped"),
    "retries": _of("retries", "counter", "Addresses that were asked to prove themselves"),
    "resets": _of("resets", "counter", "Stateless resets sent"),
    "version_answers": _of("version_answers", "counter", "Answers to other versions"),
    "key_mismatches": _of("key_mismatches", "counter", "Handshakes with no key of ours"),
    "forged": _of("forged", "counter", "Packets that were forged or damaged"),
    "unproven_errors": _of("unproven_errors", "counter", "ICMP errors without proof"),
    "unproven_received": _of("unproven_received_bytes", "counter", "Bytes from addresses not proven"),
    "unproven_sent": _of("unproven_sent_bytes", "counter", "Bytes of answers to addresses not proven"),
    "amplification_limited": _of(
        "amplification_limited", "counter", "Datagrams not sent: the address has sent too little"
    ),
    "paths_proven": _of("paths_proven", "counter", "Addresses that answered a challenge"),
    "paths_failed": _of("paths_failed", "counter", "Addresses that did not answer a challenge"),
    "repairs_sent": _of("repairs_sent", "counter", "Packets of forward error correction sent"),
    "packets_repaired": _of("packets_repaired", "counter", "Packets repaired by forward error correction"),
}


def _sum(name: str, meaning: str) -> Family:
    return Family(f"peers_{name}", "gauge", f"{meaning}, of all peers together", _T)


# sums over the associations that are up, by their names in a snapshot's `peers`: gauges, for these end
PEERS = {
    "channels": _sum("channels", "Channels of flows"),
    "packets_sent": _sum("sent_packets", "Packets sent"),
    "packets_received": _sum("received_packets", "Packets received"),
    "packets_lost": _sum("lost_packets", "Packets lost"),
    "bytes_sent": _sum("sent_bytes", "Bytes sent"),
    "bytes_received": _sum("received_bytes", "Bytes received"),
    "stream_bytes_retransmitted": _sum("retransmitted_bytes", "Bytes sent again"),
    "bytes_in_flight": _sum("in_flight_bytes", "Bytes under way"),
    "bytes_given_up": _sum("given_up_bytes", "Bytes given up"),
    "bytes_missing": _sum("missing_bytes", "Bytes that peers have given up"),
}
PEER_COUNT = Family("peers", "gauge", "Associations that are up", _T)
PEER_RTT = Family("peers_srtt_sum_seconds", "gauge", "Smoothed round trips, added up over all peers", _T)
PEER_RTT_MOST = Family("peers_srtt_max_seconds", "gauge", "The longest smoothed round trip to a peer", _T)

ALL = {
    family.name: family
    for family in (
        *OF_ENGINES,
        PEER_COUNT,
        PEER_RTT,
        PEER_RTT_MOST,
        *PEERS.values(),
        *WORKER.values(),
        *TRANSPORT.values(),
    )
}
