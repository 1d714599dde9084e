"""Programs of others on the same sockets: the kernel calls them for what they have asked for."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import KIND, PLAIN, eventually, peer, result, same

from hooker.control import bpf_calls, compiled
from hooker.control.loaded import Loaded
from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="needs engines")]
PORT = 7370
COUNTS_CLOSES = """
#include <linux/bpf.h>
BPF_ARRAY(closed, u64, 1);
int theirs(struct bpf_sock_ops *s)
{
    u32 zero = 0;
    u64 *n;

    if (s->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
        bpf_sock_ops_cb_flags_set(s, s->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
    if (s->op != BPF_SOCK_OPS_STATE_CB || s->args[1] != BPF_TCP_CLOSE)
        return 1;
    n = closed.lookup(&zero);
    if (n)
        __sync_fetch_and_add(n, 1);
    return 1;
}
"""


@contextlib.contextmanager
def counting(cgroup: Path) -> Iterator[Callable[[], int]]:
    loaded = Loaded(compiled.compiled(COUNTS_CLOSES, ["-Wno-macro-redefined"]))
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    link = bpf_calls.link_cgroup(
        loaded.program("theirs", bpf_calls.SOCK_OPS), target, bpf_calls.CGROUP_SOCK_OPS
    )
    os.close(target)
    try:
        yield lambda: struct.unpack("Q", bpf_calls.lookup(loaded.map("closed"), bytes(4), 8))[0]
    finally:
        os.close(link)
        loaded.close()


def test_connections_that_are_no_business_of_ours_keep_others_callbacks(lab: Lab) -> None:
    """The peer has no engine. The other program, further in, runs first."""
    inner = lab.b.cgroup / "inner"
    inner.mkdir()
    lab.b.hooker(*KIND)
    script = str(Path(__file__).resolve().parents[1] / "apps" / "peer.py")
    serve = [sys.executable, script, "serve", "0.0.0.0", str(PORT), "recv-all", "send:10", "close"]
    enter = ["/bin/sh", "-c", f'echo $$ > {inner}/cgroup.procs; exec "$@"', "sh"]
    with counting(inner) as closes:
        server = lab.b.popen([*enter, *serve], stdout=-1, stderr=-1, text=True)
        lab.b.wait_listening(PORT)
        client = peer(lab.a, "connect", lab.b.v4, PORT, "send:1000", "fin", "recv-all", "close")
        same(result(client), result(server))
        eventually(lambda: closes() == 1)
