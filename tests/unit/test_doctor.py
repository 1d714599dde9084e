"""The report of ``hooker doctor``; the checks themselves need root and are in tests/netns."""

from __future__ import annotations

import json
import sys
import types

import pytest

import hooker.control
from hooker.cli import doctor
from hooker.cli.doctor import Check, Failed
from hooker.errors import ConfigurationError, KernelError
from hooker.transports import Transport


def passing() -> str:
    return "fine"


def failing() -> str:
    raise Failed("it is\n  not there", "put it there")


def install(monkeypatch: pytest.MonkeyPatch, *checks: tuple[str, bool, str, doctor.Probe]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", list(checks))
    monkeypatch.setattr(doctor, "_of_transports", lambda: iter(()))
    monkeypatch.setattr(doctor, "_startup_probes", lambda _: iter(()))


def test_all_required_there_is_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, ("one", True, "", passing), ("two", False, "", failing))
    assert doctor.examine(as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["✓ one: fine", "– two: it is not there → put it there", "hooking works here"]


def test_one_required_missing_is_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, ("one", True, "", failing), ("two", False, "", passing))
    assert doctor.examine(as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[0] == "✗ one: it is not there → put it there"


def test_json_is_one_object_on_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, ("one", True, "", passing), ("two", False, "", failing))
    assert doctor.examine(as_json=True) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == {
        "checks": [
            {"name": "one", "ok": True, "required": True, "detail": "fine", "remedy": ""},
            {
                "name": "two",
                "ok": False,
                "required": False,
                "detail": "it is not there",
                "remedy": "put it there",
            },
        ]
    }


def test_an_unforeseen_exception_is_a_failed_check_with_a_remedy() -> None:
    def surprising() -> str:
        raise ZeroDivisionError("division\nby zero")

    check = doctor.run_check("odd", True, "look at it", surprising)
    assert check == Check("odd", False, True, "ZeroDivisionError: division by zero", "look at it")


def test_our_own_errors_bring_their_remedy() -> None:
    def wrong() -> str:
        raise ConfigurationError("no headers", remedy="install them")

    assert doctor.run_check("h", True, "other", wrong) == Check(
        "h", False, True, "no headers", "install them"
    )


@pytest.mark.parametrize(
    ("release", "ok", "detail"),
    [
        ("5.15.0-91-generic", False, "older than 6.1"),
        ("6.1.0-18-amd64", True, "6.6 is recommended"),
        ("6.8.0-45-generic", True, "6.8.0-45-generic"),
        ("6.18.1", True, "6.18.1"),
        ("10.0.0", True, "10.0.0"),
    ],
)
def test_the_kernels_version_is_judged(
    monkeypatch: pytest.MonkeyPatch, release: str, ok: bool, detail: str
) -> None:
    monkeypatch.setattr("os.uname", lambda: types.SimpleNamespace(release=release))
    check = doctor.run_check("kernel", True, "", doctor.check_kernel)
    assert check.ok is ok
    assert detail in check.detail


def test_probes_are_not_tried_on_a_machine_that_lacks_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("one", True, "", failing))
    monkeypatch.setattr(doctor, "_startup_probes", lambda _: pytest.fail("tried"))
    assert [(c.name, c.ok) for c in doctor.checks()] == [("one", False), ("start-up probes", False)]


def test_transports_that_there_is_code_for_are_tried_and_none_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking() -> None:
        raise KernelError("this kernel has no pigeons", remedy="feed them")

    rows = [
        Transport("vtl", 1, "", "udp", "", lambda: None),
        Transport("pigeon", 2, "", "air", "", lacking),
        Transport("owl", 3, "", "air", "", lacking, built=False),
    ]
    monkeypatch.setattr(doctor.transports, "known", lambda: rows)
    assert list(doctor._of_transports()) == [
        Check("transport vtl", True, False, "over udp", ""),
        Check("transport pigeon", False, False, "this kernel has no pigeons", "feed them"),
    ]


def test_every_probes_result_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        types.SimpleNamespace(name="nudge", ok=True, required=True, detail="0.3 ms", remedy=""),
        types.SimpleNamespace(name="splice", ok=False, required=False, detail="lost\nbytes", remedy=""),
    ]
    module = types.SimpleNamespace(own_verdicts=lambda _, *, fresh: results)
    monkeypatch.setitem(sys.modules, "hooker.control.probes", module)
    monkeypatch.setattr(hooker.control, "probes", module, raising=False)
    nudge, splice = doctor._startup_probes("segments")
    assert nudge == Check("probe nudge", True, True, "0.3 ms", "")
    assert (splice.name, splice.ok, splice.detail) == ("probe splice", False, "lost bytes")
    assert splice.remedy


def test_an_engine_that_is_not_built_fails_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hooker.control, "probes", raising=False)
    monkeypatch.setitem(sys.modules, "hooker.control.probes", None)
    (check,) = doctor._startup_probes("segments")
    assert (check.ok, check.required, check.remedy) == (False, True, "./dev build")


def test_probes_of_the_other_kind_are_tried_and_are_not_required(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = types.SimpleNamespace(name="one", ok=False, required=True, detail="lost", remedy="none")
    module = types.SimpleNamespace(own_verdicts=lambda kind, *, fresh: [failed] if kind == "messages" else [])
    monkeypatch.setitem(sys.modules, "hooker.control.probes", module)
    monkeypatch.setattr(hooker.control, "probes", module, raising=False)
    monkeypatch.setattr(doctor, "CHECKS", [("TUN", True, "", passing)])
    monkeypatch.setattr(doctor, "_of_transports", lambda: iter(()))
    _, *tried = doctor.checks()
    assert tried == [Check("probe one", False, False, "lost", "none")]


def test_what_every_engine_loads_is_required() -> None:
    required = {name for name, needed, _, _ in doctor.CHECKS if needed}
    assert {"BTF", "BCC", "UAPI headers", "program sock_ops", "maps"} <= required
