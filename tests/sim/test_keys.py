"""Associations with a pre-shared key: nothing readable, nothing forged, nothing replayed, keys updated."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from sim.exchange import Exchange, exchange, finish, payload
from sim.network import MS, SECOND, A, B, Link, Pair
from sim.wire import is_data

from hooker.vtl._parts import hkdf_expand, hkdf_extract
from hooker.vtl.sansio import ENCRYPTED_VERSIONS, Endpoint

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
MIB = 1 << 20


def keyed(seed: int = 1, *, link: Link | None = None, **config: object) -> Pair:
    return Pair(seed, link=link, keys=(KEY,), **config)


def record(pair: Pair) -> list[tuple[str, bytes]]:
    """What a and b send from now on, as (host, datagram)."""
    seen: list[tuple[str, bytes]] = []
    for host in (pair.a, pair.b):
        plain = host.flight

        def flight(now: int, plain=plain, name=host.name) -> list[tuple[bytes, tuple[str, int], int]]:
            out = plain(now)
            seen.extend((name, d) for d, _, _ in out)
            return out

        host.flight = flight  # type: ignore[method-assign]
    return seen


def stats(pair: Pair, name: str) -> dict[str, int]:
    endpoint = getattr(pair, name).endpoint
    return endpoint.stats(endpoint.associations[0])


@pytest.mark.parametrize("version", ENCRYPTED_VERSIONS)
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_bytes_arrive_and_none_of_them_is_seen(version: int, loss: float) -> None:
    pair = keyed(link=Link(loss=loss, jitter=3 * MS), versions=(version,))
    seen = record(pair)
    e = Exchange(pair, 300_000, 100_000)
    finish(pair, [e])
    wire = b"".join(d for _, d in seen)
    for text in (e.there, e.back):
        assert not any(text[i : i + 16] in wire for i in range(0, len(text) - 16, 1009))
    assert stats(pair, "a")["version"] == stats(pair, "b")["version"] == version
    assert pair.a.endpoint.drops()["auth"] == pair.b.endpoint.drops()["auth"] == 0


@pytest.mark.parametrize(("version", "cipher"), [(0x101, AESGCM), (0x102, AESGCM), (0x103, ChaCha20Poly1305)])
def test_packets_are_what_the_specification_says(version: int, cipher: type) -> None:
    """Worked out from docs/vtl.md with another implementation."""
    pair = keyed(versions=(version,))
    seen = record(pair)
    flow, _ = pair.open()
    pair.a.endpoint.write(flow, b"attack at dawn")
    pair.run_for(0.1)
    init = next(d for name, d in seen if d[0] == 0x21 and any(d[44:68]))
    ids = init[12:20] + init[44:52]
    prk = hkdf_extract(b"vtl-psk-1", KEY)
    secret = hkdf_expand(prk, b"vtl2 association" + struct.pack("!I", version) + ids, 32)
    texts = []
    for name, d in seen:
        if not is_data(d):
            continue
        role = b"vtl2 initiator" if name == "a" else b"vtl2 responder"
        own = hkdf_expand(secret, role, 32)
        key = hkdf_expand(own, b"vtl2 key", 16 if version == 0x101 else 32)
        iv = int.from_bytes(hkdf_expand(own, b"vtl2 iv", 12), "big") ^ int.from_bytes(d[9:13], "big")
        texts.append(cipher(key).decrypt(iv.to_bytes(12, "big"), d[13:], d[:13]))
    assert any(b"attack at dawn" in t for t in texts)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed_on"),
    [((0x103, 0x101), (0x101, 0x103), 0x103), ((0x102, 0x101), (0x101,), 0x101)],
)
def test_the_cipher_is_negotiated(ours: tuple[int, ...], theirs: tuple[int, ...], agreed_on: int) -> None:
    pair = keyed()
    pair.a.endpoint = Endpoint(seed=3, keys=(KEY,), versions=ours)
    pair.b.endpoint = Endpoint(seed=4, keys=(KEY,), versions=theirs)
    exchange(pair, 10_000)
    assert stats(pair, "a")["version"] == agreed_on


@pytest.mark.parametrize(
    ("ours", "theirs", "comes_up"),
    [
        ((KEY,), (KEY,), True),
        ((KEY,), (OTHER,), False),
        ((KEY,), (), False),
        ((), (KEY,), False),
        ((KEY, OTHER), (OTHER, KEY), True),
        ((KEY,), (OTHER, KEY), True),
        ((OTHER, KEY), (KEY,), False),  # the first key is the one to begin with
    ],
)
def test_both_need_the_key_or_nothing_comes_up(
    ours: tuple[bytes, ...], theirs: tuple[bytes, ...], comes_up: bool
) -> None:
    pair = Pair(1, link=Link(delay=5 * MS))
    pair.a.endpoint, pair.b.endpoint = Endpoint(seed=3, keys=ours), Endpoint(seed=4, keys=theirs)
    seen = record(pair)
    flow = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log or pair.a.flows[flow].closed, limit=2)
    assert ("FlowAccepted" in pair.a.flows[flow].log) is comes_up
    if not comes_up:
        assert pair.now <= 20 * MS
        assert pair.a.down_reasons() == [0x10007]
        assert pair.a.flows[flow].resets == [0x10007]
        assert pair.a.endpoint.counters()["key_mismatches"] > 0
        assert pair.b.endpoint.associations == ()
        assert all(d[0] in (0x21, 0x22) for _, d in seen)  # no DATA left, encrypted or not
    if ours and theirs and not comes_up:
        assert pair.b.endpoint.counters()["key_mismatches"] > 0


def test_a_forged_handshake_needs_more_than_one_accident() -> None:
    """One COOKIE with a flipped bit costs a round trip, no more."""
    pair = keyed(link=Link(delay=5 * MS))
    once: list[bytes] = []
    plain = pair.b.flight

    def flight(now: int) -> list[tuple[bytes, tuple[str, int], int]]:
        out = plain(now)
        for i, (d, to, ecn) in enumerate(out):
            if d[0] == 0x22 and not once:
                once.append(d)
                out[i] = (d[:30] + bytes([d[30] ^ 1]) + d[31:], to, ecn)
        return out

    pair.b.flight = flight  # type: ignore[method-assign]
    exchange(pair, 1000)
    assert once
    assert pair.a.endpoint.drops()["auth"] == 1


@pytest.mark.parametrize("at", [0, 11, 20, 60, 300])
def test_nothing_that_was_changed_is_taken(at: int) -> None:
    pair = keyed()
    flow, _ = pair.open()
    pair.run_for(1)
    pair.a.endpoint.write(flow, payload(1000))
    ((d, _),) = pair.a.datagrams(pair.now)
    forged = d[:at] + bytes([d[at] ^ 1]) + d[at + 1 :]
    assert pair.b.receive(forged, A, pair.now) == "auth"
    assert pair.b.receive(d[:-1], A, pair.now) == "auth"
    assert pair.b.receive(d, A, pair.now) == "ok"
    assert pair.b.receive(d, A, pair.now) == "duplicate"
    assert stats(pair, "b")["forged"] == 2


def test_replayed_packets_of_all_kinds_do_nothing() -> None:
    """Everything a and b ever said is said again: during the association, after it, and to a new one."""
    pair = keyed(keepalive=SECOND)
    seen = record(pair)
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, b"once")
    pair.run(lambda: pair.b.flows[peer].received == b"once")
    pair.run_for(0.1)
    first = list(seen)

    def replay() -> None:
        before = pair.a.endpoint.associations, pair.b.endpoint.associations
        flows = len(pair.a.flows), len(pair.b.flows)
        for name, d in first:
            pair.inject(pair.b if name == "a" else pair.a, d, A if name == "a" else B)
        pair.run_for(0.5)
        assert (pair.a.endpoint.associations, pair.b.endpoint.associations) == before
        assert (len(pair.a.flows), len(pair.b.flows)) == flows

    replay()
    assert pair.b.flows[peer].received == b"once"
    pair.a.endpoint.close(pair.a.endpoint.associations[0], 5, pair.now)
    pair.run_for(0.5)
    assert pair.b.down_reasons() == [5]
    replay()
    flow, peer = pair.open()
    replay()
    pair.a.endpoint.write(flow, b"twice")
    pair.run(lambda: pair.b.flows[peer].received == b"twice")


def test_an_endpoint_forgets_no_cookie_that_is_still_good() -> None:
    server = Endpoint(seed=1, keys=(KEY,))
    spent = b""
    for i in range(1100):
        client = Endpoint(seed=i + 10, keys=(KEY,))
        source = (f"10.1.{i // 250}.{i % 250 + 1}", 999)
        client.connect(B, 0)
        server.receive_datagram(client.datagrams_to_send(0)[0][0], source, 2 * SECOND * (i > 1000))
        client.receive_datagram(server.datagrams_to_send(2 * SECOND * (i > 1000))[0][0], B, 0)
        init = client.datagrams_to_send(0)[0][0]
        assert server.receive_datagram(init, source, 2 * SECOND * (i > 1000)) == "ok"
        if i == 0:
            spent = init
            server.close(server.associations[0] if server.associations else 1, 0, 0)
            server.datagrams_to_send(0)
        server.datagrams_to_send(2 * SECOND * (i > 1000))
        while server.next_event() is not None:
            pass
    assert server.receive_datagram(spent, ("10.1.0.1", 999), 2 * SECOND) == "cookie"


def test_a_version_taken_away_by_one_who_changes_everything_is_noticed() -> None:
    """Without a key he would get his way; the signature stops him."""
    pair = keyed(link=Link(delay=5 * MS))
    for host in (pair.a, pair.b):
        plain = host.flight

        def flight(now: int, plain=plain) -> list[tuple[bytes, tuple[str, int], int]]:
            strong, weak = (v.to_bytes(4, "big") for v in (0x101, 0x103))
            out = plain(now)
            return [(d.replace(strong, weak) if not is_data(d) else d, *rest) for d, *rest in out]

        host.flight = flight  # type: ignore[method-assign]
    flow = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    pair.run(lambda: pair.a.flows[flow].closed, limit=2)
    assert pair.a.down_reasons() == [0x10007]


# --- key update


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("version", ENCRYPTED_VERSIONS)
def test_key_update(version: int, loss: float) -> None:
    pair = keyed(
        7, link=Link(delay=15 * MS, jitter=5 * MS, loss=loss), key_update_after=40, versions=(version,)
    )
    seen = record(pair)
    finish(pair, [Exchange(pair, MIB, MIB)])
    for name in "ab":
        assert stats(pair, name)["key_updates"] >= 5
        assert stats(pair, name)["forged"] == 0
        phases = [d[0] & 1 for n, d in seen if n == name and is_data(d)]
        assert 0 < sum(phases) < len(phases)
    assert abs(stats(pair, "a")["key_updates"] - stats(pair, "b")["key_updates"]) <= 1


def test_one_side_updates_and_the_other_follows() -> None:
    pair = Pair(1, link=Link(delay=5 * MS))
    pair.a.endpoint = Endpoint(seed=3, keys=(KEY,), key_update_after=10)
    pair.b.endpoint = Endpoint(seed=4, keys=(KEY,))
    finish(pair, [Exchange(pair, 200_000, 200_000)])
    assert stats(pair, "a")["key_updates"] >= 3
    assert stats(pair, "b")["key_updates"] >= stats(pair, "a")["key_updates"] - 1


# --- the end of an association


def test_a_forged_close_is_not_believed_and_the_real_one_is() -> None:
    pair = keyed()
    seen = record(pair)
    pair.open()
    pair.run_for(1)
    init_ack = next(d for _, d in seen if d[0] == 0x23)
    to_a, to_b = init_ack[4:12], init_ack[12:20]
    plain = bytes([0x26, 0, 0, 0]) + to_b + to_a + struct.pack("!I", 9)
    assert pair.b.receive(plain, A, pair.now) == "short"
    assert pair.b.receive(plain + bytes(16), A, pair.now) == "auth"
    pair.a.endpoint.close(pair.a.endpoint.associations[0], 9, pair.now)
    pair.run(lambda: pair.b.down_reasons() == [9], limit=1)


def test_a_stateless_reset_is_a_question_only() -> None:
    pair = keyed()
    flow, _ = pair.open()
    pair.run_for(1)
    pair.a.endpoint.write(flow, b"x")
    ((d, _),) = pair.a.datagrams(pair.now)
    pair.inject(pair.b, d, A)
    assert pair.a.receive(bytes([0x2A]) + d[1:13], B, pair.now) == "ok"
    pair.run_for(2)
    assert pair.a.down_reasons() == []
    pair.b.endpoint = Endpoint(seed=99, keys=(KEY,))
    start = pair.now
    pair.a.endpoint.write(flow, b"anyone?")
    pair.run(lambda: bool(pair.a.down_reasons()), limit=2)
    assert pair.a.down_reasons() == [0x10005]
    assert pair.now - start < 500 * MS


@pytest.mark.parametrize("to", [(A[0], 55_555), ("10.9.9.9", 4000)])
def test_rebinding_with_a_key(to: tuple[str, int]) -> None:
    pair = keyed(link=Link(delay=15 * MS, rate=1.25e6), keepalive=SECOND)
    e = Exchange(pair, MIB, MIB)
    pair.after(0.5, lambda: setattr(pair.a, "address", to))
    finish(pair, [e])
    assert pair.b.endpoint.peer(pair.b.endpoint.associations[0]) == to


@pytest.mark.parametrize(
    "config",
    [
        {"keys": (b"short",)},
        {"keys": (KEY, KEY, KEY)},
        {"keys": (KEY,), "versions": (1,)},
        {"keys": (KEY,), "versions": (0x101, 1)},
        {"versions": (0x101,)},
    ],
)
def test_keys_and_versions_must_fit(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"key"):
        Endpoint(**config)
