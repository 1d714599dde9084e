"""The records that kernel and engine share are the same on both sides."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from hooker.control.compiled import source
from hooker.control.compiler import import_bcc
from hooker.control.counted import names
from hooker.engine.layout import layout

STRUCTS = (
    "hk_flow",
    "hk_redirect",
    "hk_event",
    "hk_key",
    "hk_frame",
    "hk_peer",
    "hk_warm",
    "hk_attention",
)


@pytest.fixture(scope="module")
def compiled() -> Any:
    bcc = import_bcc()
    tables = "\n".join(f"BPF_ARRAY(t_{name}, struct {name}, 1);" for name in STRUCTS)
    text = f"#include <linux/bpf.h>\n{source('hooker_kern_user.h')}\n{tables}\n"
    return bcc.BPF(text=text.encode())


@pytest.mark.parametrize("name", STRUCTS)
def test_a_shared_record_has_the_same_layout_for_kernel_and_engine(compiled: Any, name: str) -> None:
    leaf = compiled[f"t_{name}".encode()].Leaf
    ours = dict(layout()[name])
    assert ctypes.sizeof(leaf) == ours.pop("")
    for field, offset in ours.items():
        assert getattr(leaf, field).offset == offset, field


def test_a_flow_record_is_two_cache_lines_and_the_engine_writes_only_the_second() -> None:
    flow = layout()["hk_flow"]
    assert flow[""] == 128
    assert [field for field, at in flow.items() if field and at >= 64] == [
        "want",
        "hold",
        "burst",
        "control",
    ]


def test_so_is_what_goes_with_it_where_messages_are_redirected() -> None:
    record = layout()["hk_redirect"]
    assert record[""] == 128
    assert [field for field, at in record.items() if field and at >= 64] == [
        "consumed",
        "resume",
        "credit",
        "allowed",
    ]


def test_every_counter_has_a_name_of_its_own() -> None:
    for header, prefix, least in (("hooker_kern_user.h", "HK_C_", 20), ("ingress/layout.h", "HK_I_", 15)):
        assert len(names(header, prefix)) == len(set(names(header, prefix))) > least
