"""The registry of transports, and what a user's list comes to."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fuzz.option import is_offered, selected

from hooker import Hooker, transports
from hooker.cli import commands as cli
from hooker.control import rows
from hooker.errors import ConfigurationError, KernelError
from hooker.events import Kind
from hooker.transports import Transport, functions, registry, sockets

ROOT = Path(__file__).parents[2]


def lacking() -> None:
    raise KernelError("this kernel has no pigeons", remedy="feed them")


def there() -> None:
    pass


def made(name: str, wire_id: int, probe: sockets.Probe = there, built: bool = True) -> Transport:
    return Transport(name, wire_id, "forty lines", name, "its own", probe, built)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests register is gone after them."""
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


@pytest.fixture
def some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven that can be had, one whose kernel lacks something, and one that nobody has written."""
    monkeypatch.setattr(registry, "_registry", {})
    for wire_id in range(1, 8):
        transports.register(made(f"t{wire_id}", wire_id))
    transports.register(made("pigeon", 8, lacking))
    transports.register(made("owl", 9, built=False))


# ---- the registry -----------------------------------------------------------------------------------------


def test_vtl_is_known_and_can_be_had() -> None:
    assert transports.get("vtl").available() == (True, "")
    assert "vtl" in transports.names()


def test_an_unknown_name_raises_and_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="unknown transport 'pigeon'") as caught:
        transports.get("pigeon")
    assert "vtl" in caught.value.remedy


def test_a_registered_transport_is_found_and_listed() -> None:
    mine = transports.register(made("mine", 13))
    assert transports.get("mine") is mine
    assert "mine" in transports.names()
    assert transports.known()[-1] is mine
    assert [transports.name_of(number) for number in (13, 14, 0)] == ["mine", "number 14", ""]


@pytest.mark.parametrize(
    ("name", "wire_id"),
    [("vtl", 13), ("other", 1), ("big", 16), ("none", 0), ("", 13), ("a,b", 13), ("a:b", 13)],
)
def test_a_name_or_number_cannot_be_taken_twice_and_must_fit(name: str, wire_id: int) -> None:
    with pytest.raises(ConfigurationError):
        transports.register(made(name, wire_id))


def test_the_numbers_are_those_of_the_kernel_programs() -> None:
    header = (ROOT / "bpf" / "hooker_kern_user.h").read_text()
    found = re.findall(r"#define HK_TRANSPORT_(\w+) (\d+)", header)
    numbers = {name: int(number) for name, number in found if name not in ("NONE", "NAMED", "OTHERS")}
    ours = {t.name.upper().replace("+", "_"): t.wire_id for t in transports.known()}
    assert ours == numbers
    assert re.search(rf"#define HK_OFFER_MOST {registry.OFFER_MOST}\b", header)


def test_what_is_offered_is_a_list_in_the_clients_order() -> None:
    chosen = [made("c", 12), made("a", 1), made("f", 15)]
    assert transports.offer(chosen) == 0xC1F000
    assert transports.bitmap(chosen) == 1 << 12 | 1 << 1 | 1 << 15
    assert [selected(transports.offer(chosen), 1 << number) for number in (12, 1, 15, 2)] == [12, 1, 15, 0]
    assert is_offered(transports.offer(chosen), 15)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("tcp", "mptcp", "the TCP port"),
        ("mptcp", "tcp", "the TCP port"),
        ("vtl", "udp", "the UDP port"),
        ("udplite", "vtl+udplite", "the UDP-Lite port"),
        ("ip", "vtl+ip", "IP protocol 253"),
        ("dccp", "vtl+dccp", "the DCCP port"),
    ],
)
def test_of_two_that_want_the_same_port_the_later_one_is_skipped(
    monkeypatch: pytest.MonkeyPatch, first: str, second: str, what: str
) -> None:
    for name in (first, second):
        monkeypatch.setitem(registry._registry, name, replace(transports.get(name), probe=there))
    other = transports.register(made("other", 13)).name
    choice = transports.choose(f"{first},{other},{second}")
    assert [one.name for one in choice.taken] == [first, other]
    assert choice.skipped == ((second, f"{first}, which is named before it, has {what}"),)


def test_one_on_the_next_port_goes_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registry, "quic", replace(transports.get("quic"), probe=there, built=True))
    assert transports.choose("quic,vtl").skipped == ()


def test_what_the_engine_leaves_out_is_skipped_too(some: None) -> None:
    choice = transports.choose("t3,owl,t1").without({3: "a key"})
    assert str(choice) == "t1"
    assert choice.skipped == (("owl", registry.NOT_BUILT), ("t3", "a key"))


# ---- this machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "error", "says"),
    [
        (sockets.udplite, OSError(93, ""), "no UDP-Lite sockets"),
        (sockets.dccp, OSError(94, ""), "modprobe dccp_ipv4"),
        (sockets.sctp, OSError(93, ""), "modprobe sctp"),
        (sockets.raw, PermissionError(1, ""), "need root"),
        (sockets.mptcp, OSError(93, ""), "CONFIG_MPTCP"),
    ],
)
def test_what_a_kernel_lacks_is_said_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, probe: sockets.Probe, error: OSError, says: str
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(sockets, "MPTCP_ENABLED", Path("/nowhere"))
    found, why = made("m", 13, probe).available()
    assert not found
    assert says in why
    assert "\n" not in why


def test_mptcp_may_be_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(92, "")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(sockets, "MPTCP_ENABLED", tmp_path / "enabled")
    (tmp_path / "enabled").write_text("0\n")
    assert "sysctl net.mptcp.enabled=1" in made("m", 13, sockets.mptcp).available()[1]


def test_no_probe_leaves_a_socket_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for transport in transports.known():
        transport.available()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- a user's list ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["t2,t1", " t2 , t1 ", ["t2", "t1"], ("t2", "t1")])
def test_the_order_is_the_users(some: None, wanted: Any) -> None:
    choice = transports.choose(wanted)
    assert [t.name for t in choice.taken] == ["t2", "t1"]
    assert (str(choice), choice.skipped) == ("t2,t1", ())


@pytest.mark.parametrize(
    ("wanted", "taken", "skipped"),
    [
        ("pigeon,t1", "t1", {"pigeon": "this kernel has no pigeons (feed them)"}),
        ("t1,owl", "t1", {"owl": registry.NOT_BUILT}),
    ],
)
def test_what_cannot_be_had_is_skipped_with_a_reason(
    some: None, wanted: str, taken: str, skipped: dict[str, str]
) -> None:
    choice = transports.choose(wanted)
    assert (str(choice), dict(choice.skipped)) == (taken, skipped)
    events = [rows.event(rows.transport_skipped(*one)) for one in choice.skipped]
    assert [(e.kind, e.reason) for e in events] == [
        (Kind.TRANSPORT_SKIPPED, f"{name}: {why}") for name, why in skipped.items()
    ]


@pytest.mark.parametrize(
    ("wanted", "given", "why"),
    [
        ("t:x=0", (("x", 0),), ""),
        ("t:x=10:y=3", (("x", 10), ("y", 3)), ""),
        ("t", (), ""),
        ("t:x=11", None, "x is from 0 to 10, not 11"),
        ("t:x=100", None, "x is one number from 0 to 10"),
        ("t:x=-1", None, "x is one number from 0 to 10"),
        ("t:x=\u0663", None, "x is one number from 0 to 10"),
        ("t:x", None, "x is one number from 0 to 10"),
        ("t:x=1:x=2", None, "x is given twice"),
        ("t:y=1", None, "y is from 2 to 3, not 1"),
        ("t:ccid=9", None, "it takes no 'ccid', but x, y"),
        ("t:", None, "it takes no '', but x, y"),
        ("plain:x=1", None, "it takes no 'x'"),
    ],
)
def test_parameters_are_behind_the_name_and_within_their_range(
    some: None, wanted: str, given: tuple[tuple[str, int], ...] | None, why: str
) -> None:
    takes = (("x", 0, 10), ("y", 2, 3))
    transports.register(Transport("t", 13, "with parameters", "udp", "its own", there, takes=takes))
    transports.register(made("plain", 14))
    if given is None:
        with pytest.raises(ConfigurationError) as caught:
            transports.choose([wanted, "t1"])
        assert caught.value.message == f"transport {wanted.split(':')[0]!r}: {why}"
    else:
        choice = transports.choose([wanted, "t1"])
        assert (str(choice), choice.taken[0].given) == (f"{wanted},t1", given)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("dodo,t1", "unknown transport 'dodo'"),
        ("t1,,t2", "a transport has no name"),
        ("t1,t2,t1", "transport 't1' is named twice"),
        ("t1,t2,t3,t4,t5,t6,t7", "7 transports are named, 6 are the most that are offered"),
    ],
)
def test_a_mistake_in_a_list_is_an_error_though_others_could_be_had(
    some: None, wanted: str, why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        transports.choose(wanted)
    assert caught.value.message == why


def test_a_running_engine_keeps_its_parameters(some: None) -> None:
    takes = (("x", 0, 10),)
    transports.register(Transport("t", 13, "with parameters", "udp", "its own", there, takes=takes))
    opened = transports.choose("t:x=5,t1").taken
    assert str(transports.choose("t1,t", opened)) == "t1,t"
    assert str(transports.choose("t:x=5", opened)) == "t:x=5"
    assert transports.choose("t1,t:x=6", opened).skipped == (("t:x=6", "the engine was started with t:x=5"),)


def test_udplite_takes_a_coverage_within_the_least_datagram() -> None:
    if transports.get("vtl+udplite").available()[0]:
        assert transports.choose("vtl+udplite:coverage=1200").taken[0].given == (("coverage", 1200),)
    with pytest.raises(ConfigurationError, match="coverage is from 0 to 1200, not 1201"):
        transports.choose("vtl+udplite:coverage=1201")


@pytest.mark.parametrize("ccid", ["1", "4", "9", "x"])
def test_dccp_takes_a_ccid_that_there_is(ccid: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["up", "--transport", f"vtl+dccp:ccid={ccid},vtl"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "transport 'vtl+dccp': ccid is " in said
    assert said.count("\n") == 1


@pytest.mark.skipif(transports.get("vtl+dccp").available()[0], reason="there is DCCP")
def test_without_dccp_the_next_one_is_taken() -> None:
    choice = transports.choose("vtl+dccp:ccid=3,tcp")
    assert (str(choice), [name for name, _ in choice.skipped]) == ("tcp", ["vtl+dccp:ccid=3"])
    assert "modprobe dccp_ipv4 dccp_ipv6" in choice.skipped[0][1]


def test_of_a_running_engine_only_what_it_has_can_be_chosen(some: None) -> None:
    opened = transports.choose("t3,t2,t1").taken
    choice = transports.choose("t1,t4,t3", opened)
    assert (str(choice), choice.skipped) == (
        "t1,t3",
        (("t4", "the engine was started without it, or skipped it (hooker status)"),),
    )
    with pytest.raises(ConfigurationError, match="'t4': the engine was started without it") as caught:
        transports.choose("t4", opened)
    assert "t3, t2, t1" in caught.value.remedy


@pytest.mark.parametrize("wanted", ["", ",", "pigeon", "owl,pigeon", [], ["pigeon", "pigeon"], 7, None, [7]])
def test_where_none_remains_it_is_an_error_with_each_reason(some: None, wanted: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        transports.choose(wanted)
    if wanted in ("pigeon", "owl,pigeon"):
        assert "t1, t2, t3, t4, t5, t6, t7" in caught.value.remedy
        for name in wanted.split(","):
            assert name in caught.value.message


def test_the_engine_and_the_command_take_the_same_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for wire_id, name in ((13, "owl"), (14, "heron")):
        transports.register(made(name, wire_id, built=False))
    choice = Hooker(transport=["vtl", "owl"]).transports
    assert (str(choice), [name for name, _ in choice.skipped]) == ("vtl", ["owl"])
    for wanted, named in (("owl,heron", ["owl", "heron"]), ("vtl,dodo", ["dodo"])):
        with pytest.raises(SystemExit) as caught:
            cli.main(["up", "--transport", wanted])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert all(name in said for name in named)
        assert said.count("\n") == 1


# ---- hooker transports ------------------------------------------------------------------------------------


def test_the_command_lists_all_with_reasons(some: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["transports", "--json"])
    assert not caught.value.code
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["transports"]
    assert [row["name"] for row in rows] == [*(f"t{n}" for n in range(1, 8)), "pigeon", "owl"]
    assert rows[0] == {
        "name": "t1",
        "available": True,
        "reason": "",
        "carrier": "t1",
        "reliability": "its own",
    }
    assert (rows[7]["available"], rows[7]["reason"]) == (False, "this kernel has no pigeons (feed them)")
    with pytest.raises(SystemExit):
        cli.main(["transports"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "✓ t1      forty lines"
    assert lines[7] == "– pigeon  this kernel has no pigeons (feed them)"


@pytest.mark.parametrize(
    ("names", "timestamps", "mtu"),
    [
        ([], True, 0),
        (["vtl", "tcp", "quic"], True, 0),
        (["udp", "ip"], True, 0),  # as large as the links'
        (["udp"], False, 1488),
        (["ip"], False, 1488),
        (["vtl", "udplite"], True, 1496),
        (["udp", "dccp"], True, 1444),
    ],
)
def test_segments_are_as_large_as_the_datagrams_they_go_in(
    names: list[str], timestamps: bool, mtu: int
) -> None:
    chosen = [transports.get(name) for name in names]
    assert transports.segment_mtu(chosen, 1472, timestamps) == mtu


def test_a_reliability_function_has_a_name_and_limits() -> None:
    assert functions.parse("selective-repeat") == functions.Function()
    assert functions.parse("go-back-n:window=64") == functions.Function("go-back-n", window=64)
    assert functions.parse("partial:deadline=200ms") == functions.Function("partial", deadline=0.2)
    assert functions.parse("partial:repeats=0,deadline=1.5s") == functions.Function("partial", 0, 0, 1.5)
    for text in ("none", "go-back-n", "go-back-n:window=64", "partial:repeats=2,deadline=200ms"):
        assert str(functions.parse(text)) == text
    assert not functions.repairs(functions.parse("none"))
    assert functions.repairs(functions.parse("go-back-n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown reliability function ''"),
        ("pigeon", "unknown reliability function 'pigeon'.*known: go-back-n, none"),
        ("go-back-n:", "no limit ''"),
        ("go-back-n:window", "no limit 'window'"),
        ("go-back-n:windows=3", "no limit 'windows=3'"),
        ("go-back-n:window=0", "window 0 is out of range"),
        ("go-back-n:window=65536", "out of range"),
        ("go-back-n:window=-1", "is no number"),
        ("go-back-n:window=١", "is no number"),
        ("go-back-n:window=99999999999999", "is no number"),
        ("go-back-n:window=1,window=2", "window is given twice"),
        ("none:window=3", "no limit 'window=3'.*leave it out"),
        ("partial", "needs a limit"),
        ("partial:repeats=255", "out of range"),
        ("partial:deadline=200", "deadline '200' is no time"),
        ("partial:deadline=nanms", "is no time"),
        ("partial:deadline=0.1ms", "out of range"),
        ("partial:deadline=61s", "out of range"),
    ],
)
def test_what_is_no_reliability_function_is_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        functions.parse(text)
    assert re.search(says, f"{caught.value.message}: {caught.value.remedy}")
    assert "\n" not in str(caught.value)


def test_an_unknown_congestion_controller_raises_and_lists_the_known_ones() -> None:
    assert transports.check_congestion("bbr") == "bbr"
    with pytest.raises(ConfigurationError, match="unknown congestion controller 'vegas'") as caught:
        transports.check_congestion("vegas")
    assert {"auto", "bbr", "cubic"} <= set(caught.value.remedy.removeprefix("known: ").split(", "))
