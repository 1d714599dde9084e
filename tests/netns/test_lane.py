"""Whether this host lets marked segments through: asked at the start, watched, remembered, forgotten."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hands import Hands
from support import PLAIN, Pair, counts, eventually, rules

from hooker import Event, Hooker, Kind, Policy, start
from hooker.control import netns
from hooker.errors import ConfigurationError
from hooker.lab import INTERFACE, Host, Lab
from hooker.lab.engine import EngineProcess

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="TCP has no lane")]
PORT = 7990
KIND = "segments"
BLOCKS = {
    "out": "add table {0} f; add chain {0} f o {{ type filter hook output priority 0; policy drop; }};"
    f'add rule {{0}} f o oifname {{{{ "{INTERFACE}", "lo" }}}} accept',
    "in": "add table {0} f; add chain {0} f i {{ type filter hook input priority 0; }};"
    'add rule {0} f i iifname "hk*" drop',
}
SERVER = f"""
import socket, threading
listener = socket.create_server(("", {PORT}), backlog=100, family=socket.AF_INET6, dualstack_ipv6=True)
def serve(s):
    try:
        while data := s.recv(65536):
            s.sendall(data)
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
ECHO = f"""
import os, socket, sys, time
def echo(s, data):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        part = s.recv(65536)
        assert part, "ended"
        got += part
    assert got == data
began = time.monotonic()
s = socket.create_connection((sys.argv[1], {PORT}), 20)
"""
ONCE = ECHO + "echo(s, os.urandom(3000)); print(time.monotonic() - began)"
# long enough to be engaged in between; then how long the two echoes have taken
TWICE = (
    ECHO + "echo(s, bytes(9)); time.sleep(0.5); echo(s, bytes(999)); print(time.monotonic() - began - 0.5)"
)
# until a line comes on standard input; then the longest time that one echo has taken
LONG = (
    ECHO
    + """
import select
s.settimeout(60)
longest = 0
print("up", flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    now = time.monotonic()
    echo(s, os.urandom(int(sys.argv[2])))
    longest = max(longest, time.monotonic() - now)
print(longest)
"""
)
RESTING = (
    ECHO
    + """
echo(s, bytes(9))
print("up", flush=True)
sys.stdin.readline()
now = time.monotonic()
echo(s, bytes(9))
print(time.monotonic() - now)
"""
)


def block(host: Host, what: str, family: str = "inet") -> None:
    rules(host, BLOCKS[what].format(family))


def unblock(host: Host, family: str = "inet") -> None:
    rules(host, f"delete table {family} f")


def serve(pair: Pair) -> None:
    pair.b.popen([sys.executable, "-c", SERVER])
    pair.b.wait_listening(PORT)


def once(pair: Pair, family: str) -> float:
    done = pair.a.run([sys.executable, "-c", ONCE, address(pair, family)], text=True, timeout=40)
    return float(done.stdout)


def address(pair: Pair, family: str) -> str:
    return {"v4": pair.b.v4, "v6": pair.b.v6}[family]


def long(pair: Pair, family: str, size: int) -> subprocess.Popen[str]:
    return started(pair, LONG, address(pair, family), str(size))


def started(pair: Pair, script: str, *arguments: str) -> subprocess.Popen[str]:
    client = pair.a.popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout
    assert client.stdout.readline() == "up\n"
    return client


def longest(client: subprocess.Popen[str]) -> float:
    out, _ = client.communicate("end\n", timeout=60)
    return float(out)


def engine(host: Host, **options: Any) -> Hooker:
    made = Hooker(cgroup=host.cgroup, control=False, policy=Policy(ports=frozenset({PORT})), **options)
    return netns.call(host.netns, made.start)


def left_behind(host: Host) -> str:
    look = "ip -br link | grep hk; ip rule; ip -6 rule; ip route show table all | grep hk"
    return host.run(["sh", "-c", f"{look}; true"], hooked=False, text=True).stdout


# ---- the start ----------------------------------------------------------------------------------


def rule_before_ours(host: Host) -> None:
    host.run(["ip", "rule", "add", "pref", "10", "lookup", "main"], hooked=False)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("out", "a packet with our mark did not reach hk0.* dropped by a firewall's OUTPUT"),
        ("in", "what hk0 gives to a socket with our mark does not reach it.* dropped by .*INPUT"),
        ("rule", "a packet with our mark did not reach hk0: a routing rule before ours"),
    ],
)
def test_an_engine_whose_lane_is_blocked_does_not_start_and_says_what_blocks_it(
    lab: Lab, what: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hooker.hooker as module

    took: list[float] = []

    def timed(*arguments: Any, **options: Any) -> None:
        began = time.monotonic()
        try:
            real(*arguments, **options)
        finally:
            took.append(time.monotonic() - began)

    real = module.require_open
    monkeypatch.setattr(module, "require_open", timed)
    if what == "rule":
        rule_before_ours(lab.a)
    else:
        block(lab.a, what)
    before = left_behind(lab.a)
    with pytest.raises(ConfigurationError, match=f"IPv4: {says}.*nft list ruleset"):
        engine(lab.a)
    assert took[0] < 1.5  # 1 s of it are waited for, at most
    assert left_behind(lab.a) == before


def test_an_engine_that_starts_puts_in_no_ipv4_rule(lab: Lab) -> None:
    """A kernel that has ever had one looks up routes more slowly: what is no candidate pays for it."""
    told = lab.a.popen(["ip", "-4", "monitor", "rule"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)  # it listens
    engine(lab.a).close()
    lab.a.run(["ip", "rule", "add", "pref", "9999", "lookup", "main"], hooked=False)  # the last word
    assert told.stdout
    assert told.stdout.readline().startswith("9999:")


@pytest.mark.parametrize("options", [(), ("--hold",)], ids=["free", "hold"])
def test_an_engine_starts_before_the_network_is_up(lab: Lab, options: tuple[str, ...]) -> None:
    """A host without routes drops what comes from elsewhere (rp_filter): that is no firewall's work."""
    lab.a.run(["ip", "link", "set", INTERFACE, "down"])
    with Pair.open(lab, "ab", options) as pair, Hands(lab) as hands:
        lab.a.run(["ip", "link", "set", INTERFACE, "up"])
        lab.a.run(["ip", "addr", "replace", f"{lab.a.v6}/64", "dev", INTERFACE, "nodad"])

        def is_hooked(family: str) -> bool:
            for sock in hands.connected(next(ports), family, settle=0.3):
                sock.close()
            return counts(pair.engines[0].status())["engaged"] > before

        ports = iter(range(7900, 8000))
        for family in ("v4", "v6"):
            before = counts(pair.engines[0].status())["engaged"]
            eventually(lambda family=family: is_hooked(family), 20)


def test_the_command_says_so_too_and_its_status_is_2(lab: Lab) -> None:
    block(lab.a, "out")
    before = left_behind(lab.a)
    command = start.module("hooker", "up", "--cgroup", str(lab.a.cgroup), "--listen-port", "0")
    done = lab.a.run(command, hooked=False, check=False, timeout=60, text=True, env=start.environment())
    assert done.returncode == 2
    assert "did not reach hk0" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert left_behind(lab.a) == before


SLOWLY = """
import time
from collections.abc import Iterator
from hooker.control import probe_segments, probes
real = probe_segments.exchange
def exchange(one, other, sizes):
    if sizes == [probe_segments.MEBIBYTE]:
        time.sleep(0.8)  # the engine looks each 0.5 s
    return real(one, other, sizes)
probe_segments.exchange = exchange
for result in probes._all("segments"):
    print(result.ok, result.name, result.detail)
"""


def test_start_up_probes_on_a_busy_machine_do_not_count_what_the_engine_says_itself() -> None:
    done = subprocess.run([sys.executable, "-c", SLOWLY], capture_output=True, text=True, timeout=80)
    assert "True segments-return marks gone" in done.stdout, done.stdout + done.stderr


def test_ipv6_alone_is_left_to_tcp_until_it_passes(lab: Lab) -> None:
    """As firewalld keeps it: its reverse path filter knows IPv6 only."""
    block(lab.a, "in", "ip6")
    with Pair.open(lab, kind=KIND) as pair:
        assert pair.client
        serve(pair)
        assert list(pair.client.status()["engine"]["blocked"]) == ["IPv6"]
        assert once(pair, "v6") < 0.3
        assert once(pair, "v4") < 1
        assert pair.client.status()["reasons"]["local-path-blocked"] == 1
        assert counts(pair.client.status())["kernel.local-path-blocked"] == 1, "it was never asked"
        unblock(lab.a, "ip6")
        eventually(lambda: not pair.client.status()["engine"]["blocked"], timeout=20)
        client = long(pair, "v6", 1000)
        eventually(lambda: len(engaged(pair.client)) == 1)
        assert longest(client) < 1


def test_a_firewall_that_names_addresses_does_not_keep_the_engine_from_starting(lab: Lab) -> None:
    """It lets out nothing to where the engine's own connection would go, marked or not: that says nothing."""
    rules(
        lab.a,
        "add table inet f; add chain inet f o { type filter hook output priority 0; policy drop; };"
        f"add rule inet f o ip daddr {lab.b.v4} accept; add rule inet f o oifname lo accept",
    )
    with Pair.open(lab, kind=KIND) as pair:
        assert pair.client
        serve(pair)
        client = long(pair, "v4", 1000)
        eventually(lambda: len(engaged(pair.client)) == 1)
        assert longest(client) < 1


def engaged(one: EngineProcess) -> list[Any]:
    return [flow for flow in one.status()["flows"] if flow["state"] == "engaged"]


# ---- later --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "who", "family"), [("out", "a", "v4"), ("in", "a", "v6"), ("out", "b", "v6"), ("in", "b", "v4")]
)
def test_a_lane_that_is_blocked_later_costs_a_bounded_time_and_is_remembered(
    lab: Lab, what: str, who: str, family: str
) -> None:
    with Pair.open(lab, options=("-v",), kind=KIND) as pair:
        assert pair.client
        assert pair.server
        serve(pair)
        host, blocked = (pair.a, pair.client) if who == "a" else (pair.b, pair.server)
        clients = [long(pair, family, size) for size in (1, 50_000)]
        eventually(lambda: len(engaged(pair.client)) == len(engaged(pair.server)) == 2)
        block(host, what)
        first = once(pair, family)
        assert first < 3
        eventually(lambda: blocked.status()["engine"]["blocked"], timeout=5)
        took = [once(pair, family) for _ in range(5)]
        assert max(took) < 0.3, f"new ones wait for nothing: {took}"
        status = blocked.status()
        assert status["reasons"]["local-path-blocked"] >= 7
        eventually(lambda: not engaged(blocked))
        time.sleep(0.5)
        assert said(blocked, f"lane blocked for IP{family}") == 1
        unblock(host)
        eventually(lambda: not blocked.status()["engine"]["blocked"], timeout=10)
        eventually(lambda: len(engaged(blocked)) == 2, timeout=30)
        assert max(longest(client) for client in clients) < 3
        again = long(pair, family, 1000)
        eventually(lambda: len(engaged(pair.client)) == 1)
        assert longest(again) < 1
        assert said(blocked, f"lane open for IP{family}") == 1
        assert 1 <= counts(blocked.status())["lanes_blocked"] <= 2


def said(one: EngineProcess, what: str) -> int:
    return Path(one.log).read_text().count(what)


def test_a_flow_at_rest_is_on_tcp_before_its_application_speaks_again(lab: Lab) -> None:
    """Nothing of it was lost, so nobody could have noticed; the engine's own connection did."""
    with Pair.open(lab, kind=KIND) as pair:
        assert pair.client
        serve(pair)
        client = started(pair, RESTING, pair.b.v4)
        eventually(lambda: engaged(pair.client))
        block(pair.a, "out")
        eventually(lambda: not engaged(pair.client), timeout=3)
        assert longest(client) < 0.5


def test_a_flow_with_a_key_waits_until_the_lane_is_open(lab: Lab, tmp_path: Path) -> None:
    """It cannot go by TCP. New ones go there, as when the peer's engine is away."""
    with Pair.open(lab, options=key_options(tmp_path), kind=KIND) as pair:
        assert pair.client
        serve(pair)
        client = long(pair, "v4", 1000)
        eventually(lambda: len(engaged(pair.client)) == 1)
        block(pair.a, "out")
        eventually(lambda: pair.client.status()["engine"]["blocked"], timeout=5)
        assert once(pair, "v4") < 0.3
        assert len(engaged(pair.client)) == 1
        unblock(pair.a)
        eventually(lambda: not pair.client.status()["engine"]["blocked"], timeout=10)
        assert 1 < longest(client) < 15
        assert "local-path-blocked" not in pair.client.status()["ended"]


def test_the_pauses_between_two_tries_grow(lab: Lab) -> None:
    events: list[Event] = []
    made = engine(lab.a, on_event=events.append)
    try:
        block(lab.a, "in", "ip")
        began = time.monotonic()
        seen: list[float] = []
        lab.b.popen([sys.executable, "-c", SERVER])
        lab.b.wait_listening(PORT)
        lab.a.run([sys.executable, "-c", ONCE, lab.b.v4], timeout=40)  # that the lane is wanted
        while time.monotonic() - began < 20 and len(seen) < 4:
            pause = made.snapshot()["engine"]["blocked"].get("IPv4", 0)
            if pause > (1.5 * seen[-1] if seen else 0.5):
                seen.append(pause)
            time.sleep(0.01)
        assert len(seen) == 4, seen
        assert 5 < seen[-1] <= 8
        told = [event for event in events if event.kind in (Kind.LANE_BLOCKED, Kind.LANE_OPEN)]
        assert [(e.kind, str(e.remote.address)) for e in told] == [(Kind.LANE_BLOCKED, "0.0.0.0")]
        assert told[0].reason == "local-path-blocked"
    finally:
        made.close()


# sends as fast as it can into hk0, as whoever has the mark may; for no more than 15 s
FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(sys.argv[1], 0))
s.connect((sys.argv[2], 9))
until = time.monotonic() + 15
while time.monotonic() < until:
    for _ in range(1000):
        s.send(bytes(9))
"""


def test_an_engine_that_is_late_does_not_take_its_lane_for_blocked(lab: Lab) -> None:
    """It has a tenth of the CPU's time while others fill hk0's queue, so what it waits for finds no room."""
    with Pair.open(lab, kind=KIND) as pair:
        assert pair.client
        serve(pair)
        client = started(pair, RESTING, pair.b.v4)
        eventually(lambda: engaged(pair.client))
        flood = pair.a.popen([sys.executable, "-c", FLOOD, mark_of(pair.a), pair.b.v4], hooked=False)
        for _ in range(24):
            pair.client.proc.send_signal(signal.SIGSTOP)
            time.sleep(0.35)
            pair.client.proc.send_signal(signal.SIGCONT)
            time.sleep(0.035)
        assert flood.poll() is None
        flood.kill()
        flood.wait()
        state = pair.client.status()
        assert dropped(pair.a) > 0
        assert counts(state)["lanes_blocked"] == counts(state)["services_cut"] == 0
        assert state["engine"]["blocked"] == {}
        assert "local-path-blocked" not in state["reasons"]
        assert counts(state)["hk0_behind"] > 0
        assert longest(client) < 1


def mark_of(host: Host) -> str:
    """Of the engine's sockets: the rule's."""
    (rule,) = json.loads(host.run(["ip", "-j", "rule", "show"], hooked=False, text=True).stdout)[1:2]
    return str(rule["fwmark"])


def dropped(host: Host) -> int:
    """Packets that found hk0's queue full."""
    links = json.loads(host.run(["ip", "-j", "-s", "link"], hooked=False, text=True).stdout)
    (device,) = [one for one in links if one["ifname"].startswith("hk")]
    return int(device["stats64"]["tx"]["dropped"])


# ---- what others take away ------------------------------------------------------------------------

TAKEN = {
    "rules": (
        "ip {flag} rule flush; ip {flag} rule add pref 32766 lookup main;"
        "ip {flag} rule add pref 32767 lookup default"
    ),
    "routes": "ip {flag} route flush table {table}",
    "address": "ip addr flush dev {device}",  # and IPv4's routes go with it
}


def of_engine(host: Host) -> tuple[str, str]:
    """Its device, and the number of its table."""
    rule = way(host, "-4 rule").splitlines()[1].split()
    device = next(word for word in way(host, "-br link").split() if word.startswith("hk"))
    return device, rule[rule.index("lookup") + 1]


def way(host: Host, what: str) -> str:
    return host.run(["ip", *what.split()], hooked=False, text=True).stdout


def whole_way(host: Host, device: str, table: str) -> str:
    looks = (f"{flag} {look} table {table}" for flag in ("-4", "-6") for look in ("rule list", "route show"))
    return "".join(way(host, look) for look in (*looks, f"-br addr show dev {device}"))


def key_options(tmp_path: Path) -> tuple[str, ...]:
    key = tmp_path / "key"
    key.write_text("vtl-psk-1:" + "0123456789abcdef" * 4 + "\n")
    key.chmod(0o600)
    return ("--key-file", str(key))


@pytest.mark.parametrize(
    ("who", "family", "pinned"),
    [
        pytest.param("a", "v4", False, marks=pytest.mark.soak),
        pytest.param("b", "v6", False, marks=pytest.mark.soak),
        ("b", "v4", True),
    ],
)
def test_what_others_take_away_is_put_back_and_flows_go_on(
    lab: Lab, tmp_path: Path, who: str, family: str, pinned: bool
) -> None:
    options = ("-v", *(key_options(tmp_path) if pinned else ()))
    with Pair.open(lab, options=options, kind=KIND) as pair:
        assert pair.client
        assert pair.server
        serve(pair)
        host, one = (pair.a, pair.client) if who == "a" else (pair.b, pair.server)
        client = long(pair, family, 1000)
        eventually(lambda: len(engaged(one)) == 1)
        device, table = of_engine(host)
        before = whole_way(host, device, table)
        taken = [what for what in TAKEN if (what, family) != ("address", "v6")]
        for done, what in enumerate(taken, 1):
            commands = TAKEN[what].format(flag=f"-{family[1:]}", table=table, device=device)
            host.run(["sh", "-c", commands], hooked=False)
            eventually(lambda: whole_way(host, device, table) == before, timeout=5)
            eventually(lambda done=done: counts(one.status())["lanes_restored"] == done, timeout=5)
            eventually(lambda: not one.status()["engine"]["blocked"], timeout=5)
            eventually(lambda: len(engaged(one)) == 1, timeout=10)
        assert longest(client) < 3
        assert said(one, f"lane restored for IP{family}") == len(taken)
        assert one.status()["engine"]["route_error"] == ""


def test_a_device_that_is_set_down_stays_so_and_is_led_to_again_when_it_is_up(lab: Lab) -> None:
    with Pair.open(lab, kind=KIND) as pair:
        assert pair.client
        serve(pair)
        client = long(pair, "v4", 1000)
        eventually(lambda: len(engaged(pair.client)) == 1)
        device, table = of_engine(pair.a)
        before = whole_way(pair.a, device, table)
        pair.a.run(["ip", "link", "set", device, "down"], hooked=False)
        eventually(lambda: pair.client.status()["engine"]["blocked"], timeout=5)
        assert f"{device} has been set down" in pair.client.status()["engine"]["route_error"]
        time.sleep(2)
        assert "UP" not in way(pair.a, f"-br link show dev {device}")
        pair.a.run(["ip", "link", "set", device, "up"], hooked=False)
        eventually(lambda: not pair.client.status()["engine"]["blocked"], timeout=10)
        assert whole_way(pair.a, device, table) == before
        eventually(lambda: len(engaged(pair.client)) == 1, timeout=10)
        assert longest(client) < 3
        assert pair.client.status()["engine"]["route_error"] == ""


def test_one_connection_that_fails_says_nothing(lab: Lab) -> None:
    """It may have begun just before the way was put back."""
    with Pair.open(lab, kind=KIND) as pair:
        assert pair.client
        serve(pair)
        client = long(pair, "v4", 1000)
        eventually(lambda: len(engaged(pair.client)) == 1)
        looks = counts(pair.client.status())["lane_looks"]
        eventually(lambda: counts(pair.client.status())["lane_looks"] > looks)  # there is a connection
        rules(
            pair.a,
            "add table inet f; add chain inet f o { type filter hook output priority 0; };"
            'add rule inet f o oifname "hk*" tcp flags & (syn | ack) == syn limit rate 1/hour burst 1 packets'
            " counter drop",
        )
        pair.a.run(["ss", "-4", "-K", "not", "dst", pair.b.v4], hooked=False)  # the engine's own
        eventually(lambda: "counter packets 1 " in nft(pair.a))
        looks = counts(pair.client.status())["lane_looks"]
        eventually(lambda: counts(pair.client.status())["lane_looks"] > looks + 1)  # there is one again
        assert counts(pair.client.status())["lanes_blocked"] == 0
        assert longest(client) < 1


def nft(host: Host) -> str:
    return host.run(["nft", "list", "table", "inet", "f"], hooked=False, text=True).stdout


# ---- one service --------------------------------------------------------------------------------

SERVICE = "10.9.9.9"


def translate(host: Host, target: str) -> None:
    """As kube-proxy does, for TCP and UDP."""
    host.run(["ip", "route", "add", SERVICE, "dev", INTERFACE], hooked=False)
    rules(
        host,
        "add table ip n; add chain ip n o { type nat hook output priority -100; };"
        f"add rule ip n o ip daddr {SERVICE} dnat to {target}",
    )


@pytest.mark.parametrize(("what", "who"), [("translated", "a"), ("dropped", "a"), ("dropped", "b")])
def test_a_service_that_alone_is_cut_off_costs_one_flow_and_is_remembered(
    lab: Lab, what: str, who: str
) -> None:
    host = lab.a if who == "a" else lab.b
    target = SERVICE if what == "translated" else lab.b.v4
    if what == "translated":
        translate(host, lab.b.v4)
    with Pair.open(lab, kind=KIND) as pair:
        assert pair.client
        assert pair.server
        serve(pair)
        cut = pair.client if who == "a" else pair.server
        if what == "dropped":
            port = f"{'dport' if who == 'a' else 'sport'} {PORT}"
            rule = f'add rule inet f o oifname "hk*" tcp {port} drop'
            rules(
                host, "add table inet f; add chain inet f o { type filter hook output priority 0; };" + rule
            )
        script = [sys.executable, "-c", TWICE, target]
        took = [float(pair.a.run(script, text=True, timeout=40).stdout) for _ in range(8)]
        assert sum(one > 0.5 for one in took) <= 1, took
        assert max(took) < 3
        assert cut.status()["reasons"]["local-path-blocked"] >= (7 if who == "a" else 1)
        assert not cut.status()["engine"]["blocked"], "other services go on"


# ---- the rule comes later than the first candidate ------------------------------------------------


@pytest.fixture
def own(lab: Lab) -> Iterator[tuple[Hooker, Pair]]:
    """a's engine is one of this process."""
    with Pair.open(lab, hosts="b", kind=KIND) as pair:
        serve(pair)
        made = engine(lab.a)
        try:
            yield made, pair
        finally:
            netns.call(lab.a.netns, made.close)


def test_a_lane_that_is_not_watched_is_not_begun_by_the_rule(own: tuple[Hooker, Pair]) -> None:
    """Its first look was by a bound socket. Begun, it would be heard by nobody, and taken for blocked."""
    made, pair = own
    made._unwatch_lane()
    client = long(pair, "v4", 99)
    time.sleep(2)
    assert longest(client) < 1
    state = made.snapshot()
    assert state["engine"]["blocked"] == {}
    assert state["reasons"] == state["ended"], "it has left"
    assert state["counters"]["engaged"] == 1
    assert state["counters"]["lane_looks"] == state["counters"]["lanes_blocked"] == 0


def test_a_service_is_not_taken_for_cut_off_before_the_rule_is_there(
    own: tuple[Hooker, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine: the socket was asked and answered, by the wire. It is asked again soon."""
    made, pair = own
    install = made._threads.route._install

    def slowly() -> None:
        time.sleep(2)
        install()

    monkeypatch.setattr(made._threads.route, "_install", slowly)
    client = long(pair, "v4", 99)
    time.sleep(1.8)
    assert made.snapshot()["counters"]["services_cut"] == 0
    eventually(lambda: made.snapshot()["counters"]["engaged"] == 1, timeout=5)
    assert longest(client) < 1
    assert "local-path-blocked" not in made.reasons()
