"""Which sockets are adopted, which of their messages redirected: what the programs make of a flow's record.

The engine is a stand-in (segments_owner.py) that says in the record what an engine would. Nothing is marked
here, so what is not redirected goes by the wire.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from owned import CLOSED, Bed, End, connection, engines, receive
from support import eventually

from hooker.lab import Lab

DONE, BLOCKING, REFUSED, GONE, ZEROCOPY = 1, 2, 3, 4, 5  # HK_ADOPT_*
PASS, REDIRECT = 0, 1  # HK_MODE_*
SO_ZEROCOPY = 60
LARGE = 1 << 20
both_families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with Lab() as lab, engines(lab, kind="messages") as found:
        yield Bed(lab, found)


@pytest.fixture
def pair(bed: Bed) -> Iterator[tuple[End, End]]:
    with connection(bed) as both:
        yield both


def adopt(end: End) -> int:
    return int(end.engine.ask("adopt", end.slot))


def adopted(end: End, **record: int) -> End:
    """In the map, and its messages may be redirected: by default with credit, and nothing passed before."""
    end.engine.ask("frames")
    assert adopt(end) == DONE
    end.set_redirect(**{"allowed": 1, "credit": LARGE, **record})
    return end


def frames(end: End) -> list[str]:
    """The messages of this end, that have been redirected since the last time."""
    found: list[list[Any]] = end.engine.ask("frames")
    assert all(flow_id == end.begun["flow_id"] for flow_id, _ in found)
    return [text for _, text in found]


def counted(end: End, name: str) -> int:
    return int(end.engine.ask("counters")[name])


def nothing(end: End) -> bool:
    """Nothing has come for this end."""
    time.sleep(0.05)
    with contextlib.suppress(BlockingIOError):
        end.socket.setblocking(False)
        return not end.socket.recv(1)
    end.socket.settimeout(20)
    return True


# ---- adoption ---------------------------------------------------------------------------------------------


@both_families
def test_a_socket_that_does_not_block_is_adopted(bed: Bed, family: int) -> None:
    with connection(bed, family) as (client, server):
        for end in (client, server):
            assert adopt(end) == DONE
            assert adopt(end) == DONE  # again: the same


@pytest.mark.parametrize("why", ["blocking", "zerocopy"])
def test_others_are_not(pair: tuple[End, End], why: str) -> None:
    client, server = pair
    if why == "blocking":
        client.socket.setblocking(True)
    else:
        client.socket.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    assert adopt(client) == {"blocking": BLOCKING, "zerocopy": ZEROCOPY}[why]
    client.set_redirect(allowed=1, credit=LARGE)
    client.socket.sendall(b"a word")
    assert receive(server, 6) == b"a word"
    assert frames(client) == []
    if why == "blocking":
        client.socket.setblocking(False)
    else:
        client.socket.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 0)
    assert adopt(client) == DONE


def test_one_that_is_gone_is_not(bed: Bed) -> None:
    with connection(bed) as (client, _):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        assert adopt(client) == GONE


def test_an_adopted_socket_has_no_zero_copy(pair: tuple[End, End]) -> None:
    client = adopted(pair[0])
    with pytest.raises(OSError) as failed:
        client.socket.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    assert failed.value.errno == errno.EOPNOTSUPP
    assert counted(client, "zerocopy-refused") == 1
    client.socket.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 0)


# ---- redirection ------------------------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize("end", ["client", "server"])
def test_messages_of_an_adopted_socket_go_to_the_engine(bed: Bed, family: int, end: str) -> None:
    with connection(bed, family) as both:
        one, other = both if end == "client" else both[::-1]
        adopted(one)
        for text in (b"one", b"two" * 1000, b"x"):
            one.socket.sendall(text)
        assert frames(one) == ["one", "two" * 1000, "x"]
        record = one.redirect
        assert (record["redirected"], record["mode"], record["passed"]) == (3004, REDIRECT, 0)
        assert record["flow_id"] == one.begun["flow_id"]
        assert nothing(other)


def test_without_leave_nothing_is_redirected(pair: tuple[End, End]) -> None:
    """`allowed` is the engine's word, and not there from the beginning."""
    client, server = pair
    assert adopt(client) == DONE
    client.set_redirect(credit=LARGE)
    client.socket.sendall(b"a word")
    assert receive(server, 6) == b"a word"
    assert frames(client) == []
    assert client.redirect["redirected"] == client.redirect["passed"] == 0


def test_without_credit_nothing_is_redirected(pair: tuple[End, End]) -> None:
    client, server = adopted(pair[0], credit=0), pair[1]
    client.socket.sendall(b"a word")
    assert receive(server, 6) == b"a word"
    assert frames(client) == []
    assert (client.redirect["passed"], client.redirect["mode"]) == (6, PASS)


def test_nothing_is_redirected_before_the_engine_has_taken_what_went_before(pair: tuple[End, End]) -> None:
    client, server = pair
    client.socket.sendall(b"before")
    assert receive(server, 6) == b"before"
    adopted(client, resume=0)
    client.socket.sendall(b"behind")
    assert receive(server, 6) == b"behind"
    for short in (11, 13):
        client.set_redirect(resume=short)
        client.socket.sendall(b"")
        assert frames(client) == []
    client.set_redirect(resume=12)
    client.socket.sendall(b"redirected")
    assert frames(client) == ["redirected"]
    assert nothing(server)


def test_what_finds_no_credit_passes_and_says_behind_which_byte(pair: tuple[End, End]) -> None:
    """The two ways' order: `spill_at` redirected bytes, what passed, what is redirected again."""
    client, server = adopted(pair[0], credit=10), pair[1]
    spilled = counted(client, "spilled")
    client.socket.sendall(b"redirected")
    assert client.redirect["mode"] == REDIRECT
    for text in (b"passed", b" too"):  # the second finds the flow in PASS
        client.socket.sendall(text)
    record = client.redirect
    assert (record["mode"], record["spill_at"], record["spills"], record["passed"]) == (PASS, 10, 1, 10)
    assert receive(server, 10) == b"passed too"
    client.set_redirect(consumed=10)  # credit again, but the engine has not taken what passed
    client.socket.sendall(b"behind it")
    assert receive(server, 9) == b"behind it"
    assert (client.redirect["spill_at"], client.redirect["spills"]) == (10, 1)
    client.set_redirect(resume=19)
    client.socket.sendall(b"again")
    assert frames(client) == ["redirected", "again"]
    assert (client.redirect["mode"], client.redirect["redirected"]) == (REDIRECT, 15)
    assert counted(client, "spilled") == spilled + 1


def test_a_socket_that_becomes_blocking_spills(pair: tuple[End, End]) -> None:
    client, server = adopted(pair[0]), pair[1]
    client.socket.sendall(b"redirected")
    client.socket.setblocking(True)
    client.socket.sendall(b"passed")
    assert receive(server, 6) == b"passed"
    assert (client.redirect["spill_at"], client.redirect["mode"]) == (10, PASS)
    client.set_redirect(resume=6)
    client.socket.setblocking(False)
    client.socket.sendall(b"again")
    assert frames(client) == ["redirected", "again"]


def test_a_record_of_another_flow_is_not_looked_at(pair: tuple[End, End]) -> None:
    client, server = adopted(pair[0]), pair[1]
    client.set_redirect(flow_id=client.begun["flow_id"] + (1 << 32))
    client.socket.sendall(b"a word")
    assert receive(server, 6) == b"a word"
    assert frames(client) == []
    assert client.redirect["redirected"] == 0


def test_what_is_sent_after_a_shutdown_fails_as_tcp_says(pair: tuple[End, End]) -> None:
    client = adopted(pair[0])
    client.socket.shutdown(socket.SHUT_WR)
    client.set_redirect(resume=1)  # the FIN's number: drained, by all that the numbers say
    with pytest.raises(BrokenPipeError):
        client.socket.sendall(b"too late")
    assert frames(client) == []


def test_a_slot_that_is_used_again_begins_anew(bed: Bed) -> None:
    with connection(bed) as (client, _):
        adopted(client, credit=4)
        client.socket.sendall(b"four")
        client.socket.sendall(b"passed")
        slot, flow_id = client.slot, client.begun["flow_id"]
        assert client.redirect["allowed"]
    client.engine.event(CLOSED, 0)
    client.engine.ask("give_back", flow_id + (1 << 32))  # the top of the stack: the next flow's
    with connection(bed) as (client, server):
        assert client.slot == slot
        kernel = {"redirected": 0, "spill_at": 0, "passed": 0, "mode": PASS, "spills": 0}
        record = client.redirect
        assert {name: record[name] for name in kernel} == kernel
        assert record["flow_id"] == client.begun["flow_id"] == flow_id + (1 << 32)
        assert record["allowed"] == 0
        assert adopt(client) == DONE
        client.set_redirect(credit=LARGE)
        client.socket.sendall(b"a word")
        assert receive(server, 6) == b"a word"


def test_when_the_engine_is_killed_messages_are_tcps(lab: Lab) -> None:
    with engines(lab, "a", kind="messages") as found, engines(lab, "b", kind="messages") as other:
        bed = Bed(lab, {"a": found["a"], "b": other["b"]})
        with connection(bed) as (client, server):
            adopted(client, credit=10)
            client.socket.sendall(b"redirected")
            client.engine.kill()

            def arrives() -> bool:
                client.socket.sendall(b"!")
                server.socket.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    return bool(server.socket.recv(100))
                return False

            eventually(arrives)
