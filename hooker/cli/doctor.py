"""``hooker doctor``: what hooking needs, checked by trying it, with a remedy for each failure.

Nothing outlives a check: programs are attached to a child cgroup only, and routing rules are tried in a
network namespace without a name, in a child process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hooker import transports
from hooker.control import bpf_calls, cgroup, headers, janitor, netns
from hooker.control.janitor import Janitor
from hooker.errors import HookerError
from hooker.transports import Transport

KERNEL_FLOOR = (6, 1)
KERNEL_RECOMMENDED = (6, 6)  # FIN and poll faults of sockmap are fixed
CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}

AS_ROOT = "run it as root, with all capabilities: sudo hooker doctor"
NEWER_KERNEL = (
    "use a newer kernel (6.6 or later) with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_NET_SOCK_MSG"
)
MESSAGES = "a newer kernel; only engines with --intercept messages need it"

PROGRAMS = r"""
#include <linux/bpf.h>
BPF_SOCKHASH(doctor_sockets, u32, 2);
BPF_SK_STORAGE(doctor_storage, u64);
int probe_sock_ops(struct bpf_sock_ops *s) {
  u8 option[4] = {253, 4, 0x4b, 0x48};
  int mark = 1;
  if (s->op == BPF_SOCK_OPS_HDR_OPT_LEN_CB) bpf_reserve_hdr_opt(s, 4, 0);
  if (s->op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB) bpf_store_hdr_opt(s, option, 4, 0);
  if (s->op == BPF_SOCK_OPS_PARSE_HDR_OPT_CB) bpf_load_hdr_opt(s, option, 4, 0);
  bpf_setsockopt(s, 1 /* SOL_SOCKET */, 36 /* SO_MARK */, &mark, sizeof(mark));
  return 1;
}
int probe_sk_msg(struct sk_msg_md *msg) {
  u32 key = 0;
  bpf_msg_push_data(msg, 0, 16, 0);
  bpf_msg_pull_data(msg, 0, 16, 0);
  return doctor_sockets.msg_redirect_hash(msg, &key, 1 /* BPF_F_INGRESS */);
}
int probe_cgroup_skb(struct __sk_buff *skb) {
  struct bpf_sock *sk = skb->sk;
  if (sk && (sk = bpf_sk_fullsock(sk))) doctor_storage.sk_storage_get(sk, 0, 0);
  return 1;
}
int probe_xdp(struct xdp_md *ctx) { return 2 /* XDP_PASS */; }
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``remedy`` is empty when ``ok``."""

    name: str
    ok: bool
    required: bool
    detail: str
    remedy: str


class Failed(Exception):
    """A check found something missing."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.remedy = remedy


Probe = Callable[[], str]  # the detail; raises when the check fails


# ---- the checks -----------------------------------------------------------------------------


def missing_capabilities() -> list[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = int(next(line.split()[1] for line in lines if line.startswith("CapEff")), 16)
    return [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]


def check_capabilities() -> str:
    missing = missing_capabilities()
    if missing:
        raise Failed(f"missing CAP_{', CAP_'.join(missing)}", AS_ROOT)
    if os.geteuid() != 0:
        raise Failed("the capabilities are there, but this is not root", AS_ROOT)
    return "root, " + ", ".join(f"CAP_{name}" for name in CAPABILITIES)


def check_kernel() -> str:
    release = os.uname().release
    version = headers.kernel_version(release)[:2]
    floor, recommended = (".".join(map(str, v)) for v in (KERNEL_FLOOR, KERNEL_RECOMMENDED))
    if version < KERNEL_FLOOR:
        raise Failed(f"{release} is older than {floor}", f"use Linux {floor}, better {recommended} or later")
    return f"{release}" + ("" if version >= KERNEL_RECOMMENDED else f" ({recommended} is recommended)")


def check_cgroup() -> str:
    path = cgroup.root()
    if str(path).startswith("/proc/self/fd/"):
        return "not mounted here; a private mount works"
    return f"mounted at {path}"


def check_btf() -> str:
    path = Path("/sys/kernel/btf/vmlinux")
    if not path.exists():
        raise Failed(
            f"{path} is missing",
            "use a kernel with CONFIG_DEBUG_INFO_BTF: the programs read TCP's state by it",
        )
    return f"{path}, {path.stat().st_size / 1e6:.1f} MB"


def check_headers() -> str:
    return f"{headers.activate()}"


def check_bcc() -> str:
    return f"version {_bcc().__version__}"


@cache
def _bcc() -> Any:
    try:
        import bcc
    except Exception as error:
        raise Failed(
            f"cannot be imported: {error}",
            "apt-get install python3-bpfcc; it works with /usr/bin/python3 only (./dev setup)",
        ) from None
    if not hasattr(bcc, "BPF"):  # the bcc on the Python package index is a crystallography library
        raise Failed(f"{bcc.__file__} is another package of that name", "pip uninstall bcc; ./dev setup")
    return bcc


@cache
def _programs() -> Any:
    """The compiled programs above."""
    with _captured_stderr() as text:
        try:
            headers.activate()
            with headers.compiling():
                return _bcc().BPF(text=PROGRAMS.encode(), cflags=["-Wno-macro-redefined"])
        except Failed:
            raise
        except Exception as error:
            raise Failed(f"BCC cannot compile: {text() or error}", NEWER_KERNEL) from None


def check_compiler() -> str:
    _programs()
    return "BCC compiles, the maps can be made"


def load_program(name: str, kind: str) -> Probe:
    """A check that loads ``probe_<name>`` as program type BPF.<kind>."""

    def check() -> str:
        with _captured_stderr() as text:
            try:
                _programs().load_func(f"probe_{name}".encode(), getattr(_bcc().BPF, kind))
            except Failed:
                raise
            except Exception as error:
                reason = text().strip().splitlines()
                raise Failed(reason[-1] if reason else str(error), NEWER_KERNEL) from None
        return "loads"

    return check


def check_links() -> str:
    """Attach to a child cgroup, never the root."""
    bpf = _programs().load_func(b"probe_sock_ops", _bcc().BPF.SOCK_OPS)
    egress = _programs().load_func(b"probe_cgroup_skb", _bcc().BPF.CGROUP_SKB)
    group = cgroup.Cgroup.named()
    with Janitor() as keeper:  # removes it, however this ends
        keeper.register(janitor.cgroup(group.relative))
        target = os.open(group.make().path, os.O_RDONLY)
        try:
            os.close(bpf_calls.link_cgroup(bpf.fd, target, bpf_calls.CGROUP_SOCK_OPS))
            os.close(bpf_calls.link_cgroup(egress.fd, target, bpf_calls.CGROUP_INET_EGRESS))
        finally:
            os.close(target)
    return "sock_ops and egress, in a child cgroup"


def check_maps() -> str:
    """Socket storage is left to the programs: it needs type information, which BCC adds."""
    os.close(bpf_calls.create_map("sockhash", key=4, value=8, entries=2))
    os.close(bpf_calls.create_map("ringbuf", key=0, value=0, entries=os.sysconf("SC_PAGESIZE")))
    flags = bpf_calls.F_NO_PREALLOC
    os.close(bpf_calls.create_map("lpm_trie", key=20, value=1, entries=2, flags=flags))
    flags = bpf_calls.F_MMAPABLE
    os.close(bpf_calls.create_map("array", key=4, value=8, entries=2, flags=flags))
    _programs()
    return "sockhash, ringbuf, lpm_trie, mmapable array, sk_storage"


def _has_ipv6() -> bool:
    return Path("/proc/sys/net/ipv6").exists()  # not with ipv6.disable=1


def check_routing() -> str:
    """In a network namespace of its own."""
    _in_new_namespace(_try_routing)
    return "rule by fwmark, a table of its own"


def check_tun() -> str:
    """In a network namespace of its own."""
    from hooker.tun import check_device

    check_device()
    _in_new_namespace(_try_tun)
    return "a device with offloads, up, and a route to it"


def _in_new_namespace(attempt: Callable[[], None]) -> None:
    """Run it in a child that enters a nameless network namespace; both end together."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _report(attempt, writer)
    os.close(writer)
    with os.fdopen(reader) as report:
        text = report.read()
    os.waitpid(child, 0)
    if text != "ok":
        raise Failed(text or "the check died", NEWER_KERNEL)


def _report(attempt: Callable[[], None], writer: int) -> None:
    text = "ok"
    try:
        netns.unshare()
        attempt()
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    finally:
        os.write(writer, text.encode())
        os._exit(0)


def _try_routing() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        ipr.link("set", index=1, state="up")
        for family in (socket.AF_INET, socket.AF_INET6) if _has_ipv6() else (socket.AF_INET,):
            ipr.rule("add", family=family, priority=100, table=100, fwmark=1)
            ipr.route("add", family=family, table=100, dst="default", oif=1)


def _try_tun() -> None:
    from pyroute2 import IPRoute

    from hooker.tun import Device

    with Device("hkdoctor0") as made, IPRoute() as ipr:
        ipr.route("add", table=100, dst="0.0.0.0/0", oif=made.index, scope=253)


def check_udp_offload() -> str:
    udp_segment, udp_gro = 103, 104  # linux/udp.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_UDP, udp_segment, 1400)
        probe.setsockopt(socket.IPPROTO_UDP, udp_gro, 1)
    return "segmentation and aggregation of UDP datagrams"


def _of_transports() -> Iterator[Check]:
    """Those that there is code for."""
    for transport in transports.known():
        if transport.built:
            yield run_check(f"transport {transport.name}", False, NEWER_KERNEL, _can_be_had(transport))


def _can_be_had(transport: Transport) -> Probe:
    def check() -> str:
        transport.probe()
        return f"over {transport.carrier}"

    return check


def check_inet_diag() -> str:
    """Dump this network namespace's listening TCP sockets."""
    netlink_sock_diag, by_family, dump = 4, 20, 0x301  # linux/netlink.h, linux/sock_diag.h
    request = struct.pack("=BBBxI48x", socket.AF_INET, socket.IPPROTO_TCP, 0, 1 << 10)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_sock_diag) as probe:
        probe.settimeout(2)
        probe.send(struct.pack("=IHHII", 16 + len(request), by_family, dump, 1, 0) + request)
        answer = probe.recv(65536)
    nlmsg_error = 2
    if struct.unpack_from("=H", answer, 4)[0] == nlmsg_error:
        number = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(number, os.strerror(number))
    return "socket states can be read"


# ---- the report -----------------------------------------------------------------------------

CHECKS: list[tuple[str, bool, str, Probe]] = [  # name, required, remedy of an unforeseen failure, probe
    ("capabilities", True, AS_ROOT, check_capabilities),
    ("kernel", True, NEWER_KERNEL, check_kernel),
    ("cgroup v2", True, "mount -t cgroup2 none /sys/fs/cgroup/unified", check_cgroup),
    ("BTF", True, NEWER_KERNEL, check_btf),
    ("BCC", True, "./dev setup", check_bcc),
    ("UAPI headers", True, "apt-get install linux-libc-dev", check_headers),
    ("BCC compiles", True, NEWER_KERNEL, check_compiler),
    ("program sock_ops", True, NEWER_KERNEL, load_program("sock_ops", "SOCK_OPS")),
    ("program sk_msg", False, MESSAGES, load_program("sk_msg", "SK_MSG")),
    ("program cgroup_skb", True, NEWER_KERNEL, load_program("cgroup_skb", "CGROUP_SKB")),
    ("program xdp", False, NEWER_KERNEL, load_program("xdp", "XDP")),
    ("links to cgroups", True, NEWER_KERNEL, check_links),
    ("maps", True, NEWER_KERNEL, check_maps),
    ("policy routing", True, NEWER_KERNEL, check_routing),
    ("TUN", True, "modprobe tun; or a kernel with CONFIG_TUN", check_tun),
    ("UDP GSO and GRO", False, "use Linux 5.0 or later; without it VTL is slower", check_udp_offload),
    (
        "inet_diag",
        False,
        "modprobe tcp_diag; without it: no keys, no --intercept messages, and some resets come late",
        check_inet_diag,
    ),
]


def run_check(name: str, required: bool, remedy: str, probe: Probe) -> Check:
    """Run one; whatever it raises is a failure with a remedy."""
    check = _run(name, required, remedy, probe)
    if not check.ok and check.remedy in (NEWER_KERNEL, MESSAGES) and missing_capabilities():
        return replace(check, remedy=AS_ROOT)  # the kernel may be fine
    return check


def _run(name: str, required: bool, remedy: str, probe: Probe) -> Check:
    try:
        return Check(name, True, required, probe(), "")
    except Failed as error:
        return Check(name, False, required, _line(str(error)), error.remedy)
    except HookerError as error:
        return Check(name, False, required, _line(error.message), error.remedy or remedy)
    except Exception as error:
        return Check(name, False, required, _line(f"{type(error).__name__}: {error}"), remedy)


def checks() -> Iterator[Check]:
    """All of them, one by one: first what the machine has, then the engine's start-up probes."""
    sound = True
    for entry in CHECKS:
        check = run_check(*entry)
        sound = sound and (check.ok or not check.required)
        yield check
    yield from _of_transports()
    if sound:
        yield from _startup_probes("segments")
        yield from _startup_probes("messages")
    else:
        yield Check("start-up probes", False, True, "not tried", "repair what failed above first")


def _startup_probes(intercept: str) -> Iterator[Check]:
    """Of the usual engine, and of the other kind: nobody is refused the usual one for want of the other."""
    try:
        from hooker.control import probes  # it needs the built engine

        results = probes.own_verdicts(intercept, fresh=True)
    except Exception as error:
        detail = _line(f"{type(error).__name__}: {error}")
        yield Check("start-up probes", False, True, detail, "./dev build")
        return
    for result in results:
        remedy = "" if result.ok else result.remedy or NEWER_KERNEL
        required = result.required and intercept == "segments"
        yield Check(f"probe {result.name}", result.ok, required, _line(result.detail), remedy)


def examine(*, as_json: bool) -> int:
    """Print the report; 0 if everything required is there, else 1."""
    done = []
    for check in checks():
        done.append(check)
        if not as_json:
            print(format_line(check), flush=True)
    passed = all(check.ok for check in done if check.required)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in done]}))
    else:
        print("hooking works here" if passed else "hooking does not work here")
    return 0 if passed else 1


def format_line(check: Check) -> str:
    """``✓`` passed, ``✗`` failed, ``–`` failed but not required."""
    sign = "✓" if check.ok else "✗" if check.required else "–"
    text = f"{sign} {check.name}: {check.detail}"
    return text if check.ok else f"{text} → {check.remedy}"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """The compiler and the verifier write to descriptor 2; keep that for the detail."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def text() -> str:
            sys.stderr.flush()
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)
