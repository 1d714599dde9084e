"""Errors say whose fault it is and what to do."""

from __future__ import annotations

import errno
import resource

import pytest

from hooker import errors


@pytest.mark.parametrize(
    ("kind", "fault", "builtin"),
    [
        (errors.ConfigurationError, "configuration", ValueError),
        (errors.UsageError, "local", RuntimeError),
        (errors.CarrierError, "carrier", ConnectionError),
        (errors.KernelError, "kernel", RuntimeError),
    ],
)
def test_every_class_has_a_fault_and_a_builtin_base(
    kind: type[errors.HookerError], fault: str, builtin: type[Exception]
) -> None:
    assert kind.fault == fault
    assert issubclass(kind, errors.HookerError)
    assert issubclass(kind, builtin)


def test_the_remedy_follows_the_message() -> None:
    error = errors.ConfigurationError("no cgroup v2", remedy="mount it")
    assert str(error) == "no cgroup v2 (mount it)"
    assert (error.message, error.remedy) == ("no cgroup v2", "mount it")
    assert str(errors.CarrierError("gone")) == "gone"


def test_a_kernel_error_keeps_the_errno_and_names_it() -> None:
    error = errors.KernelError.from_os_error("attach sock_ops", OSError(errno.EPERM, "x"), remedy="be root")
    assert error.errno == errno.EPERM
    assert str(error) == "cannot attach sock_ops: Operation not permitted [EPERM] (be root)"


def test_too_many_open_files_have_the_same_remedy_whatever_was_tried() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"limit is {limit} open files" in errors.KernelError("no map", errno=errno.EMFILE).remedy
    assert errors.KernelError("no map", errno=errno.EMFILE, remedy="wait").remedy == "wait"
    assert errors.KernelError("no map", errno=errno.EPERM).remedy == ""


def test_root_is_required_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(errors.ConfigurationError, match="hooker run needs root"):
        errors.require_root("hooker run")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    errors.require_root("hooker run")
