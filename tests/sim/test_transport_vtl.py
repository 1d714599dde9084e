"""Messages of the flow protocol over VTL: DATA becomes a block, everything else travels as it is."""

from __future__ import annotations

import pytest
from sim.network import Pair

from hooker.flow.messages import MessageError, decode, encode
from hooker.transports import vtl

TOKEN = 0x1122334455667788


def test_data_is_a_block_and_back() -> None:
    data = encode("data", epoch=3, flags=0x1F, position=7, token=TOKEN, data=b"abc")
    assert vtl.to_block(data) == (0x55667788, 7, 3, 0x1F, b"abc")
    back = decode(vtl.from_block(*vtl.to_block(data)))
    assert {**decode(data), "token": 0x55667788} == back


def test_timestamps_and_an_empty_fin() -> None:
    """VTL repairs, so nobody's ARQ needs the timestamps."""
    data = encode("data", epoch=1, flags=0x81, position=9, token=TOKEN, tsval=5, tsecr=6)
    assert vtl.to_block(data) == (0x55667788, 9, 1, 0x01, b"")
    assert decode(vtl.from_block(*vtl.to_block(data)))["flags"] == 0x01


@pytest.mark.parametrize("kind", ["hello", "ping", "open", "accept", "acked", "engaged", "leave"])
def test_control_travels_as_it_is(kind: str) -> None:
    message = encode(kind, epoch=1, position=5, token=TOKEN)
    assert vtl.from_control(message) == message
    with pytest.raises(MessageError):
        vtl.to_block(message)


@pytest.mark.parametrize(
    "wrong", [b"", b"\x02", encode("ping") + b"x", b"\x7f" + bytes(15), encode("data", data=b"x")]
)
def test_other_bytes_are_no_control_message(wrong: bytes) -> None:
    """DATA among them: bytes travel in blocks, where they are bounded."""
    with pytest.raises(MessageError):
        vtl.from_control(wrong)


def test_a_flows_messages_cross_an_association() -> None:
    pair = Pair(1)
    assoc = pair.connect()
    channel = pair.a.endpoint.channel_open(assoc)
    words = [encode("open", token=1, own_token=TOKEN), encode("engaged", epoch=1, token=TOKEN, tsval=3)]
    for word in words:
        assert pair.a.endpoint.channel_say(channel, word)
    id_, position, epoch, flags, data = vtl.to_block(encode("data", flags=2, token=TOKEN, data=bytes(5000)))
    assert pair.a.endpoint.channel_send(channel, id_, position, data, epoch=epoch, flags=flags)
    pair.run(lambda: sum(len(b.data) for b in pair.b.blocks) == 5000)
    assert [vtl.from_control(m) for m in pair.b.messages] == words
    read = [decode(vtl.from_block(b.id, b.position, b.epoch, b.flags, b.data)) for b in pair.b.blocks]
    assert [m["position"] for m in read] == [sum(len(x["data"]) for x in read[:i]) for i in range(len(read))]
    assert [m["flags"] for m in read] == [0] * (len(read) - 1) + [2]
