"""Servers that more than one test needs: sshd and PostgreSQL, with keys, data and settings of their own."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import SLOWNESS

from hooker.lab import Host, Lab

SSH_PORT, PG_PORT = 2222, 5433


def need(*programs: str) -> None:
    """Skip the test if one of *programs* is not installed."""
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def start_sshd(host: Host, base: Path) -> list[str]:
    """Start sshd on *host*, its keys in *base*; return the options that ssh and scp need to reach it."""
    need("/usr/sbin/sshd", "ssh", "scp")
    if not base.exists():
        base.mkdir(mode=0o700)
        for name in ("host", "user"):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)]
            subprocess.run(keygen, check=True, timeout=20)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    settings = {
        "HostKey": base / "host",
        "AuthorizedKeysFile": base / "user.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "PermitRootLogin": "yes",
        "Subsystem": "sftp internal-sftp",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    options += ["-o", "ListenAddress=0.0.0.0", "-o", "ListenAddress=::", "-f", "/dev/null", "-e"]
    with (base / "log").open("wb") as log:
        host.popen(["/usr/sbin/sshd", "-D", "-p", str(SSH_PORT), *options], stdout=log, stderr=log)
    host.wait_listening(SSH_PORT)
    known = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"]
    return ["-F", "none", "-i", str(base / "user"), *(part for k in known for part in ("-o", k))]


def postgres_options(name: str) -> list[str]:
    """Return what psql and pgbench need to reach the server at the address *name*."""
    return ["-h", name, "-p", str(PG_PORT), "-U", "postgres"]


@contextlib.contextmanager
def running_postgres(lab: Lab) -> Iterator[Path]:
    """Run a fresh cluster on host b; yield the directory of its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    need("psql", "pgbench")
    bin_dir, base = found[-1].parent, Path(f"/tmp/{lab.cgroup.name}-pg")
    user, group = pwd.getpwnam("postgres").pw_uid, grp.getgrnam("postgres").gr_gid
    base.mkdir()
    os.chown(base, user, group)
    try:
        data = base / "data"
        initdb = [str(bin_dir / "initdb"), "-D", str(data), "-A", "trust", "-N", "-U", "postgres"]
        made = {"capture_output": True, "timeout": 60 * SLOWNESS, "cwd": base}
        subprocess.run(initdb, user=user, group=group, check=True, **made)  # type: ignore[call-overload]
        with (data / "pg_hba.conf").open("a") as hba:
            hba.write("host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n")
        _start_postgres(lab.b, bin_dir, data, base)
        yield bin_dir
    finally:
        for proc in lab.processes:
            if proc.args[-1] == f"unix_socket_directories={base}":  # type: ignore[index]
                proc.send_signal(signal.SIGINT)  # without waiting for clients
                proc.wait(10 * SLOWNESS)
        shutil.rmtree(base, ignore_errors=True)


def _start_postgres(host: Host, bin_dir: Path, data: Path, base: Path) -> None:
    options = ["listen_addresses=*", "fsync=off", f"port={PG_PORT}", f"unix_socket_directories={base}"]
    become = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    settings = [part for option in options for part in ("-c", option)]
    with (base / "log").open("wb") as log:
        host.popen([*become, bin_dir / "postgres", "-D", data, *settings], stdout=log, stderr=log)
    host.wait_listening(PG_PORT, timeout=20 * SLOWNESS)
