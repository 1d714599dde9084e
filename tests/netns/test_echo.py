"""A server that echoes TCP options it does not know is not taken for a Hooker."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support import PLAIN, Pair, address, any_address, counts, peer, result, same

from hooker.control import headers
from hooker.lab import Lab

pytestmark = pytest.mark.timeout(60)

SOCK_OPS = 3  # attach type BPF_CGROUP_SOCK_OPS
ECHO = r"""
#include <linux/bpf.h>
struct option { u8 kind, len; u8 rest[14]; };
BPF_ARRAY(echoed, u64, 1);

static __always_inline int is_synack(struct bpf_sock_ops *s) {
    return (s->skb_tcp_flags & 0x12) == 0x12;
}

int hk_test_echo(struct bpf_sock_ops *s) {
    u32 zero = 0;
    if (s->op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
        bpf_sock_ops_cb_flags_set(s, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
    } else if (s->op == BPF_SOCK_OPS_HDR_OPT_LEN_CB && is_synack(s)) {
        bpf_reserve_hdr_opt(s, sizeof(struct option), 0);
    } else if (s->op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB && is_synack(s)) {
        struct option o = {.kind = 253, .len = 4, .rest = {ID0, ID1}};
        if (bpf_load_hdr_opt(s, &o, sizeof(o), BPF_LOAD_HDR_OPT_TCP_SYN) > 0 &&
            !bpf_store_hdr_opt(s, &o, sizeof(o), 0))
            echoed.increment(zero);
    }
    return 1;
}
"""


@pytest.fixture
def echoes(lab: Lab) -> Iterator[object]:
    """Host b's listeners send the option of a SYN back in the SYN-ACK, bit for bit."""
    headers.activate()
    from bcc import BPF

    text = ECHO.replace("ID0", "0x48").replace("ID1", "0x4b")  # the ExID, "HK"
    program = BPF(text=text.encode())
    function = program.load_func(b"hk_test_echo", BPF.SOCK_OPS)
    cgroup = os.open(lab.b.cgroup, os.O_RDONLY | os.O_DIRECTORY)
    program.attach_func(function, cgroup, SOCK_OPS)
    try:
        yield program[b"echoed"]
    finally:
        program.detach_func(function, cgroup, SOCK_OPS)
        os.close(cgroup)
        program.cleanup()


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_an_echoed_option_means_plain_tcp(lab: Lab, echoes: object, family: str) -> None:
    with Pair.open(lab, "a") as pair:
        server = peer(pair.b, "serve", any_address(family), 7600, "recv-all", "send:5", "close")
        lab.meter.start()
        client = peer(
            pair.a, "connect", address(pair.b, family), 7600, "send:100000", "fin", "recv-all", "close"
        )
        sent, received = result(client, 20), result(server, 20)
        same(sent, received)
        same(received, sent)
        payload = lab.meter.read().to_b["tcp"].payload
        assert 100_000 <= payload <= 103_000, "TCP may send a segment or two again"
        if pair.client:
            assert counts(pair.client.status())["engaged"] == 0
    if not PLAIN:
        assert echoes[0].value > 0, "the test's own server did not echo"  # type: ignore[index]
