"""One flow at one host: what each word and segment does. The whole is looked at in tests/sim/flow."""

from __future__ import annotations

import pytest

from hooker.flow.face import Machine, answer_to_unknown
from hooker.flow.messages import MessageError, decode, encode
from hooker.flow.states import Action, Event, Reason, Role, State

TOKEN, PEER = 7, 9
WINDOW = 1000
A = Action


def message(kind: str, epoch: int = 1, **fields: int | bytes) -> bytes:
    return encode(kind, epoch=epoch, token=TOKEN, **fields)  # type: ignore[arg-type]


def engaged(role: Role = Role.CLIENT, **options: float) -> Machine:
    """At time 0, nothing sent, the peer's final position known."""
    m = Machine(role, token=TOKEN, **options)  # type: ignore[arg-type]
    if role is Role.CLIENT:
        assert m.local(Event.START, 0) & A.SEND_OPEN
        assert m.message(message("accept", own_token=PEER), 0) == A.MARK
    else:
        assert m.message(message("open", own_token=PEER), 0) == A.MARK | A.SEND_ACCEPT
    assert m.segment(1, 0, 1, WINDOW, 0) & A.SEND_ENGAGED
    assert m.message(message("engaged", position=1, flags=3), 0) == A.SEND_ENGAGED | A.SEND_ACKED
    assert m.state is State.ENGAGED
    return m


def test_a_flow_engages_and_then_waits_for_nothing() -> None:
    for role in Role:
        assert engaged(role).message(message("acked", position=1, edge=500), 0) == A.INJECT_ACK
        m = engaged(role)
        m.message(message("acked", position=1, edge=500), 0)
        assert m.deadline is None


def test_a_final_that_is_known_is_no_answer() -> None:
    """It is said again for its timestamp, which is the twin's. Nothing else changes."""
    m = engaged()
    m.segment(1, 100, 1, WINDOW, 1)
    before = m.freeze()
    assert m.message(message("engaged", position=1, flags=3, tsval=5), 1.05) == 0
    assert m.freeze() == before


def test_open_is_tried_three_times_and_then_it_is_tcp() -> None:
    m = Machine(Role.CLIENT, rtt=0.05)
    assert m.local(Event.START, 0) == A.SEND_OPEN
    at = []
    while m.state is State.OPENING:
        assert m.deadline is not None
        at.append(round(m.deadline, 3))
        actions = m.timer(m.deadline)
        assert actions == (A.SEND_OPEN if len(at) < 4 else A.REPORT)
    assert at == [0.1, 0.3, 0.7, 1.5]
    assert (m.state, m.reason, m.deadline) == (State.TCP, Reason.NO_ANSWER, None)
    late = m.message(message("accept", own_token=PEER), 2)
    assert late == A.SEND_LEAVE  # the server must not wait for us


def test_an_unknown_connection_there_may_be_one_that_is_not_there_yet() -> None:
    m = Machine(Role.CLIENT)
    m.local(Event.START, 0)
    assert m.message(message("reject", position=1), 0) == 0
    assert m.state is State.OPENING
    assert m.message(message("reject", position=2), 0) == A.REPORT
    assert (m.state, m.reason) == (State.TCP, Reason.REJECTED)


def test_the_same_open_gets_the_same_answer_and_a_newer_one_begins_over() -> None:
    m = engaged(Role.SERVER)
    assert m.message(message("open", own_token=PEER), 1) == A.SEND_ACCEPT
    assert m.message(message("open", own_token=PEER + 1), 1) == 0
    assert m.state is State.ENGAGED
    assert m.message(message("open", epoch=2, own_token=PEER), 1) == A.MARK | A.SEND_ACCEPT
    assert (m.state, m.numbers["epoch"]) == (State.ARMED, 2)
    assert m.message(message("leave"), 1) == 0  # of the old epoch
    assert m.message(message("data", position=1, data=b"x"), 1) == 0
    assert m.message(message("open", epoch=1, own_token=PEER), 1) == 0


def test_an_epoch_is_never_used_twice() -> None:
    m = Machine(Role.CLIENT, token=TOKEN)
    for epoch in range(1, 256):
        assert m.local(Event.START, 0) == A.SEND_OPEN
        assert decode(m.compose("open", 0))["epoch"] == epoch
        m.message(message("leave", epoch=epoch), 0)
    assert m.local(Event.START, 0) == A.REPORT
    assert (m.state, m.reason) == (State.TCP, Reason.EPOCHS_USED_UP)


def test_a_socket_that_does_not_come_through_hk0_is_probed_and_given_up() -> None:
    m = Machine(Role.SERVER)
    m.message(message("open", own_token=PEER), 0)
    probes = 0
    while m.state is State.ARMED:
        assert m.deadline is not None
        probes += bool(m.timer(m.deadline) & A.INJECT_PROBE)
        assert m.deadline is not None
    assert probes == 5
    assert (m.state, m.reason) == (State.LEFT, Reason.NOT_THROUGH_HK0)


def test_nothing_is_injected_before_a_segment_has_come_through_hk0() -> None:
    m = Machine(Role.SERVER, token=TOKEN)
    m.message(message("open", own_token=PEER), 0)
    assert m.message(message("data", position=1, data=b"abc"), 0) == A.KEEP | A.INJECT_PROBE
    assert m.segment(1, 0, 1, WINDOW, 0) & (A.SEND_ENGAGED | A.BRIDGE) == A.SEND_ENGAGED
    assert m.state is State.ENGAGED


def test_data_goes_where_the_window_says() -> None:
    m = engaged(promise=500, rtt=1.0)
    m.segment(1, 0, 1, WINDOW + 1, 0)  # the window moves
    assert decode(m.compose("acked", 0))["edge"] == 1 + WINDOW + 1 + 500
    end = 1 + WINDOW + 1
    assert m.message(message("data", position=end - 2, data=b"ab"), 0) == A.INJECT
    assert m.message(message("data", position=end - 2, data=b"abcd"), 0) == A.INJECT | A.KEEP
    assert m.message(message("data", position=end, data=b"ab"), 0) == A.KEEP
    assert m.message(message("data", position=end + 500, data=b"ab"), 0) == A.INJECT_PROBE | A.KEEP
    assert m.message(message("data", position=end + 65536, data=b"ab"), 0) == A.INJECT_PROBE
    assert m.message(message("data", position=end, flags=1), 0) == A.INJECT
    assert m.message(message("data", position=end + 2**30 + 1, data=b"ab"), 0) == 0
    assert m.message(message("data", position=0, data=b"a"), 0) == A.SEND_ACKED


def test_a_promise_ends_when_the_reader_pauses_or_closes_its_window() -> None:
    m = engaged(promise=500, rtt=0.1)
    m.segment(1, 0, 1, WINDOW + 1, 1)
    assert decode(m.compose("acked", 1))["edge"] == 1 + WINDOW + 1 + 500
    assert m.deadline == pytest.approx(1.1)
    assert m.timer(1.1) & A.SEND_ACKED
    assert decode(m.compose("acked", 1.1))["edge"] == 1 + WINDOW + 1
    m.segment(1, 0, 2 + WINDOW, 0, 2)  # moved, and full
    assert decode(m.compose("acked", 2))["edge"] == 2 + WINDOW


def test_an_acknowledgement_never_exceeds_what_was_sent() -> None:
    m = engaged()
    assert m.segment(1, 10, 1, WINDOW, 0) & A.SEND_DATA
    m.message(message("acked", position=15, edge=100, serial=1), 0)
    assert m.numbers["snd_una"] == 11
    assert m.segment(11, 3, 1, WINDOW, 0) & A.INJECT_ACK
    assert m.numbers["snd_una"] == 14
    assert m.message(message("acked", position=1 << 31, edge=100, serial=2), 0) == 0


def test_a_flow_engages_again_after_gigabytes_on_tcp() -> None:
    m = engaged()
    m.message(message("leave"), 0)
    m.local(Event.UNMARKED, 0)
    assert m.local(Event.START, 1) == A.SEND_OPEN
    m.message(message("accept", epoch=2, own_token=PEER), 1)
    sent, got = 3 << 30, 7 << 28
    assert m.segment(sent, 10, got, WINDOW, 1) == A.BRIDGE  # where are we?
    assert m.state is State.ARMED
    m.marked(sent, sent + 10, got)
    assert m.segment(sent, 10, got, WINDOW, 1) & A.SEND_ENGAGED
    m.message(message("engaged", epoch=2, flags=3, position=got), 1)
    assert m.segment(sent + 10, 10, got, WINDOW, 1) & A.SEND_DATA
    m.message(message("acked", epoch=2, position=sent + 20, edge=sent + 500), 1)
    assert m.numbers["snd_una"] == sent + 20


GB = 1 << 30
TURN = 1 << 32


def carry(m: Machine, up: int, down: int) -> tuple[int, int]:
    """Both kernels' bytes, by the transport: the positions behind the last ones, in 64 bits."""
    sent = got = 1
    step = GB // 4
    serial = 0
    while sent < up or got < down:
        if sent < up:
            assert m.segment(sent % TURN, step, got % TURN, GB // 2, 0) & A.SEND_DATA
            sent += step
            serial = (serial + 1) % (1 << 16)
            edge = (sent + GB // 2) % TURN
            m.message(message("acked", position=sent % TURN, edge=edge, serial=serial), 0)
        if got < down:
            assert m.message(message("data", position=got % TURN, data=b"x"), 0) & A.INJECT
            got += step
            m.injected(got % TURN, 0)
            assert not m.segment(sent % TURN, 0, got % TURN, GB // 2, 0) & A.UNMARK
    return sent, got


FAR = pytest.mark.parametrize("far", [GB, 2 * GB, 3 * GB, 4 * GB, 5 * GB, 6 * GB, 7 * GB])


@FAR
def test_what_came_by_the_wire_tells_however_much_went_before(far: int) -> None:
    m = engaged()
    sent, got = carry(m, 0, far)
    assert m.segment(sent, 0, (got + 100) % TURN, WINDOW, 0) & A.UNMARK
    assert (m.state, m.reason) == (State.LEFT, Reason.WIRE_ACK)


@FAR
def test_a_first_retransmission_waits_for_the_transport_however_much_went_before(far: int) -> None:
    m = engaged(repairs=True)
    sent, _ = carry(m, far, 0)
    assert m.segment(sent % TURN, 100, 1, WINDOW, 0) & A.SEND_DATA
    assert not m.segment(sent % TURN, 100, 1, WINDOW, 0.3) & A.SEND_DATA
    assert m.segment(sent % TURN, 100, 1, WINDOW, 0.9) & A.SEND_DATA
    # and what is said of the wire is not above what the peer has
    assert decode(m.compose("engaged", 1))["position"] == sent % TURN


@FAR
def test_a_refusal_long_ago_is_not_one_of_today(far: int) -> None:
    m = engaged(repairs=True)
    m.segment(1, 1000, 1, WINDOW, 0)
    m.not_taken(500)
    sent, _ = carry(m, far, 0)
    assert m.segment(sent % TURN, 1000, 1, WINDOW, 0) & A.SEND_DATA
    assert not m.segment(sent % TURN, 1000, 1, WINDOW, 1) & A.SEND_DATA
    m = engaged(repairs=True)
    m.segment(1, 1000, 1, WINDOW, 0)
    m.not_taken(500)
    sent, _ = carry(m, far, 0)
    m.segment(sent % TURN, 1000, 1, WINDOW, 0)
    m.not_taken((sent + 100) % TURN)
    assert not m.segment(sent % TURN, 100, 1, WINDOW, 1) & A.SEND_DATA
    assert m.segment((sent + 100) % TURN, 900, 1, WINDOW, 1) & A.SEND_DATA


@FAR
def test_it_engages_however_much_was_bridged(far: int) -> None:
    m = Machine(Role.CLIENT, token=TOKEN)
    m.local(Event.START, 0)
    m.message(message("accept", own_token=PEER), 0)
    sent, step = 1, 1 << 16
    while sent < far:
        assert m.segment(sent % TURN, step, 1, WINDOW, 0) & A.BRIDGE
        sent += step
    m.message(message("engaged", position=1, flags=3), 0)
    assert m.state is State.ENGAGED
    assert decode(m.compose("engaged", 0))["position"] == sent % TURN
    assert m.segment(sent % TURN, 100, 1, WINDOW, 0) & A.SEND_DATA
    edge = (sent + 1000) % TURN
    assert m.message(message("acked", position=(sent + 100) % TURN, edge=edge, serial=1), 0) & A.INJECT_ACK
    assert m.numbers["snd_una"] == (sent + 100) % TURN


def test_what_cannot_be_is_bridged_or_dropped_and_changes_nothing() -> None:
    m = engaged()
    before = m.freeze()
    assert m.segment(1 << 31, 10, 1, WINDOW, 1) == 0
    assert m.segment(1, 10, 1 << 31, WINDOW, 1) == 0
    assert m.freeze() == before
    m.message(message("leave"), 0)
    assert m.segment(1 << 31, 10, 1, WINDOW, 1) == A.BRIDGE | A.UNMARK


def test_what_cannot_be_does_not_move_the_low_mark_while_bridged() -> None:
    m = Machine(Role.CLIENT, token=TOKEN)
    m.local(Event.START, 0)
    m.message(message("accept", own_token=PEER), 0)
    m.segment(1, 10, 1, WINDOW, 0)
    assert m.state is State.BRIDGE
    before = m.numbers
    assert m.segment((1 << 30) - 1, 60_000, 1 << 31, WINDOW, 0) == A.BRIDGE
    assert m.numbers == before


def test_an_overtaken_window_is_not_opened_again() -> None:
    m = engaged()
    m.segment(1, 10, 1, WINDOW, 0)
    assert m.message(message("acked", position=5, edge=5, serial=8), 0) == A.INJECT_ACK
    assert m.message(message("acked", position=5, edge=500, serial=7), 0) == 0
    assert m.numbers["peer_edge"] == 5
    assert (
        m.message(message("acked", position=6, edge=500, serial=7), 0) == A.INJECT_ACK
    )  # progress is never old


def test_the_first_retransmission_stays_here_where_the_transport_repairs() -> None:
    for repairs in (True, False):
        m = engaged(repairs=repairs)
        m.message(message("acked", position=1, edge=500, serial=1), 0)
        sent = [bool(m.segment(1, 10, 1, WINDOW, 0) & A.SEND_DATA) for _ in range(3)]
        assert sent == [True, not repairs, True]
    m = engaged(repairs=True)
    m.segment(1, 10, 1, WINDOW, 0)
    m.message(message("refused", position=1), 0)
    assert m.segment(1, 10, 1, WINDOW, 0) & A.SEND_DATA


def test_what_went_by_tcp_before_is_repeated_at_once() -> None:
    """The transport never had it: kept back, it would cost the application another timeout, twice as long."""
    m = Machine(Role.CLIENT, token=TOKEN, repairs=True)
    m.local(Event.START, 0)
    m.message(message("accept", own_token=PEER), 0)
    m.marked(1, 301, 1)  # 300 bytes are on the wire
    m.segment(301, 100, 1, WINDOW, 0)  # and these are bridged
    m.message(message("engaged", position=1, flags=3), 0)
    assert m.state is State.ENGAGED
    m.message(message("acked", position=1, edge=900, serial=1), 0)
    assert m.segment(401, 100, 1, WINDOW, 0) & A.SEND_DATA
    for position in (1, 301):
        assert m.segment(position, 100, 1, WINDOW, 0) & A.SEND_DATA
    assert not m.segment(401, 100, 1, WINDOW, 0) & A.SEND_DATA  # this one the transport has


def test_a_hole_in_what_went_by_the_wire_is_told_the_peers_tcp() -> None:
    """The transport repairs its own losses, and nobody but TCP those of the wire."""
    m = Machine(Role.CLIENT, token=TOKEN, repairs=True)
    m.local(Event.START, 0)
    m.message(message("accept", own_token=PEER), 0)
    m.segment(1, 0, 1, WINDOW, 0)
    m.message(message("engaged", position=301, flags=3), 0)
    assert m.message(message("data", position=301, data=bytes(100)), 0) & A.INJECT
    m.injected(401, 0)
    assert not m.segment(1, 0, 1, WINDOW, 0.01, holes=True) & A.SEND_SACK  # the wire may be overtaken
    assert m.deadline is not None
    assert m.timer(m.deadline) == A.SEND_PING | A.INJECT_PROBE
    assert m.segment(1, 0, 1, WINDOW, 0.3, holes=True) & A.SEND_SACK
    assert not m.segment(1, 0, 1, WINDOW, 0.3) & A.SEND_SACK
    m.message(message("pong"), 0.3)
    assert not m.segment(1, 0, 301, WINDOW, 0.9, holes=True) & A.SEND_SACK  # the transport's
    m.segment(1, 10, 301, WINDOW, 0.9)
    assert m.deadline is not None
    assert m.timer(m.deadline) == A.SEND_PING


def test_where_the_transport_repairs_nothing_each_hole_is_told_at_once() -> None:
    for repairs in (True, False):
        m = engaged(repairs=repairs)
        assert m.message(message("data", position=101, data=bytes(100)), 0) & A.INJECT
        m.injected(201, 0)
        assert bool(m.segment(1, 0, 1, WINDOW, 0.001, holes=True) & A.SEND_SACK) is not repairs
        assert not m.segment(1, 0, 1, WINDOW, 0.001) & A.SEND_SACK


def test_all_that_had_been_sent_when_it_was_refused_passes_once_more() -> None:
    """Each piece at its first repetition: TCP would wait for a timeout before the second."""
    m = engaged(repairs=True)
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    for position in (1, 11, 21, 31):
        m.segment(position, 10, 1, WINDOW, 0)
    m.message(message("refused", position=15), 0)
    m.segment(41, 10, 1, WINDOW, 0)  # sent after it
    passed = [
        position for position in (1, 11, 21, 31, 41) if m.segment(position, 10, 1, WINDOW, 0) & A.SEND_DATA
    ]
    assert passed == [11, 21, 31]
    assert not m.segment(21, 10, 1, WINDOW, 0) & A.SEND_DATA  # under way again


def test_an_answer_to_what_came_by_the_wire_goes_there() -> None:
    """Nothing was injected that it could answer."""
    m = engaged()
    m.message(message("data", position=1, data=bytes(100)), 0)
    m.injected(101, 0)
    assert not m.segment(1, 0, 101, WINDOW, 0.01) & A.WIRE_ACK
    assert not m.segment(1, 0, 101, WINDOW, 0.29) & A.WIRE_ACK  # may be of what was injected
    assert m.segment(1, 0, 101, WINDOW, 1.0) & A.WIRE_ACK
    assert not m.segment(0, 0, 101, WINDOW, 2.0) & A.WIRE_ACK  # a keepalive
    assert not m.segment(1, 0, 101, WINDOW + 1, 3.0) & A.WIRE_ACK  # of the window
    assert not m.segment(1, 10, 101, WINDOW + 1, 4.0) & A.WIRE_ACK
    m = engaged()
    m.pin()
    assert not m.segment(1, 0, 1, WINDOW, 1.0) & A.WIRE_ACK  # a NAT would answer it with a RST


def test_a_tail_loss_probe_says_nothing_of_what_was_refused_before_it() -> None:
    """RFC 8985, 7.3: TCP repeats its last segment first."""
    m = engaged(repairs=True)
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    for position in (1, 11, 21):
        m.segment(position, 10, 1, WINDOW, 0)
    m.message(message("refused", position=1), 0)
    assert all(m.segment(position, 10, 1, WINDOW, 0) & A.SEND_DATA for position in (21, 1, 11))


def test_what_has_arrived_and_is_not_acknowledged_passes_when_it_is_repeated() -> None:
    """The peer's kernel has dropped it, or acknowledges late; TCP's timer decides, as by wire."""
    m = engaged(repairs=True)
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    for position in (1, 11):
        m.segment(position, 10, 1, WINDOW, 0)
    assert not m.segment(1, 10, 1, WINDOW, 0) & A.SEND_DATA
    assert m.segment(11, 10, 1, WINDOW, 0, arrived=True) & A.SEND_DATA


def test_keepalive_and_window_probes_are_answered_by_the_far_kernel_only() -> None:
    m = engaged()
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    assert m.segment(0, 0, 1, WINDOW, 0) & A.SEND_PROBE
    assert m.deadline is not None  # who probes wants an answer
    assert m.message(message("probe"), 0) == A.INJECT_PROBE
    m.segment(1, 10, 1, WINDOW, 0)
    assert not m.segment(5, 0, 1, WINDOW, 0) & A.SEND_PROBE  # an ACK at the end of a window that was shrunk


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda m: m.segment(1, 0, 50, WINDOW, 0), Reason.WIRE_ACK),
        (lambda m: m.message(message("leave"), 0), Reason.PEER_LEFT),
        (lambda m: m.message(message("leave", flags=1), 0), Reason.UNKNOWN_THERE),
        (lambda m: m.local(Event.DOWN, 0), Reason.TRANSPORT_DOWN),
        (lambda m: m.local(Event.STOP, 0), Reason.ENGINE_STOPS),
        (lambda m: m.local(Event.PEER_DEAD, 0), Reason.ENGINE_GONE),
    ],
)
def test_what_a_free_flow_leaves_for_a_pinned_one_ends_for(what, reason: Reason) -> None:  # type: ignore[no-untyped-def]
    m = engaged()
    actions = what(m)
    assert actions & (A.UNMARK | A.WIRE_ACK | A.WIRE_OLDEST | A.REPORT | A.ABORT) == (
        A.UNMARK | A.WIRE_ACK | A.WIRE_OLDEST | A.REPORT
    )
    assert (m.state, m.reason) == (State.LEFT, reason)
    m = engaged()
    m.pin()
    actions = what(m)
    if reason is Reason.TRANSPORT_DOWN:  # an outage is survived, as TCP survives it
        assert (actions, m.state) == (0, State.ENGAGED)
        return
    assert actions & (A.UNMARK | A.BRIDGE | A.WIRE_OLDEST | A.ABORT | A.SEND_RESET) == A.ABORT | A.SEND_RESET
    assert (m.state, m.reason) == (State.CLOSED, reason)
    assert m.message(message("data", position=1, data=b"x"), 0) == A.SEND_RESET


def test_a_silent_peer_is_left_after_four_times_t_and_a_pinned_flow_goes_on_asking() -> None:
    for pinned in (False, True):
        m = engaged()
        if pinned:
            m.pin()
        m.segment(1, 10, 1, WINDOW, 0)
        for _ in range(3):
            assert m.deadline is not None
            last = m.deadline
            assert m.timer(last) & A.SEND_PING
        assert m.deadline is not None
        end = m.deadline
        m.timer(end)
        assert m.state is (State.ENGAGED if pinned else State.LEFT)
        assert pinned or end == pytest.approx(0.4)


def test_who_is_doubted_is_left_sooner_and_a_word_clears_him() -> None:
    for cleared in (False, True):
        m = engaged()
        m.segment(1, 10, 1, WINDOW, 0)
        m.local(Event.DOUBT, 0)
        if cleared:
            m.message(message("pong"), 0.001)
        while m.state is State.ENGAGED:
            assert m.deadline is not None
            end = m.deadline
            m.timer(end)
        assert m.reason is Reason.PEER_SILENT
        assert end > 0.4 if cleared else end == pytest.approx(0.24)


def test_a_slow_path_or_peer_has_more_time() -> None:
    m = engaged(rtt=0.2)
    m.segment(1, 10, 1, WINDOW, 0)
    while m.state is State.ENGAGED:
        assert m.deadline is not None
        end = m.deadline
        m.timer(end)
    assert end == pytest.approx(4 * 2 * 0.2)


def test_an_engine_that_did_not_run_itself_does_not_blame_its_peer() -> None:
    """Whose answers it has not read yet. But not for ever: at least every second try counts."""
    m = engaged()
    m.segment(1, 10, 1, WINDOW, 0)
    asked = 0
    while m.state is State.ENGAGED:
        assert m.deadline is not None
        asked += bool(m.timer(m.deadline + 0.3) & A.SEND_PING)
    assert asked == 7
    m = engaged()
    m.segment(1, 10, 1, WINDOW, 0)
    for _ in range(3):
        assert m.deadline is not None
        m.timer(m.deadline)
    assert m.deadline is not None
    assert m.timer(m.deadline + 5) & A.SEND_PING  # it was stopped
    assert m.state is State.ENGAGED
    m.message(message("pong"), 6)
    assert m.deadline is not None
    assert m.deadline > 6


def test_what_anybody_could_have_sent_is_only_a_question() -> None:
    m = engaged()
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    assert m.local(Event.DOUBT, 1) == A.SEND_PING
    assert m.message(message("pong"), 1) == 0
    assert (m.state, m.deadline) == (State.ENGAGED, None)


def test_acks_that_nothing_elicited_are_a_question() -> None:
    m = engaged()
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    assert not m.segment(1, 0, 1, WINDOW, 5) & A.SEND_PING
    assert m.segment(1, 0, 1, WINDOW, 6) & A.SEND_PING


def test_a_peer_that_answers_and_never_acknowledges_is_left() -> None:
    m = engaged()
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    for _ in range(6):
        m.segment(1, 10, 1, WINDOW, 0)
        m.message(message("pong"), 0)
    assert m.state is State.ENGAGED
    m.segment(1, 10, 1, WINDOW, 0)
    assert (m.state, m.reason) == (State.LEFT, Reason.NO_PROGRESS)


@pytest.mark.parametrize("repairs", [True, False])
def test_where_the_transport_repairs_nothing_time_counts_too(repairs: bool) -> None:
    """The kernel's timer doubles: the sixth repetition may be minutes away."""
    m = engaged()
    m.configure(repairs=repairs)
    m.message(message("acked", position=1, edge=500, serial=1), 0)
    for at in (0, 0.2, 0.6, 1.4):
        m.segment(1, 10, 1, WINDOW, at)
        m.message(message("pong"), at)
    assert m.state is State.ENGAGED
    m.segment(1, 10, 1, WINDOW, 3.0)
    assert (m.state, m.reason) == (
        (State.ENGAGED, Reason.NONE) if repairs else (State.LEFT, Reason.NO_PROGRESS)
    )


def test_a_reset_before_the_peer_is_engaged_is_told_when_it_asks() -> None:
    """It went by the wire, before bytes that had gone as DATA: the peer's kernel does not believe it."""
    m = Machine(Role.CLIENT, token=TOKEN)
    m.local(Event.START, 0)
    m.message(message("accept", own_token=PEER), 0)
    assert m.segment(1, 100, 1, WINDOW, 0) & A.BRIDGE
    assert m.segment(101, 0, 1, 0, 0, rst=True) & A.BRIDGE
    m.local(Event.CLOSE, 0)
    assert m.state is State.CLOSED
    assert m.message(message("acked", position=1, edge=500), 0) == A.SEND_RESET


def test_a_reset_acknowledges_nothing() -> None:
    """That of a socket that is gone says behind what it answers."""
    m = engaged()
    m.segment(1, 0, 5, 0, 0, rst=True)
    assert m.numbers["rcv_ack"] == 1


def test_a_reset_is_told_and_told_again() -> None:
    m = engaged()
    assert m.segment(1, 0, 1, 0, 0, rst=True) == A.SEND_RESET | A.REPORT
    assert (m.state, m.reason) == (State.CLOSED, Reason.RESET_HERE)
    assert m.message(message("data", position=1, data=b"x"), 0) == A.SEND_RESET
    assert m.message(message("leave"), 0) == A.WIRE_RST
    there = engaged()
    assert there.message(message("reset"), 0) == A.INJECT_RST
    assert there.segment(1, 0, 1, WINDOW, 0) & A.INJECT_RST  # a challenge ACK names the right number


def test_a_closed_flow_answers_for_a_minute() -> None:
    m = engaged()
    m.segment(1, 1, 6, WINDOW, 0)
    m.local(Event.CLOSE, 0)
    assert m.message(message("data", position=5, flags=1), 1) == A.SEND_ACKED
    assert m.message(message("data", position=6, flags=1), 1) == A.SEND_LEAVE
    assert m.message(message("leave"), 1) == 0
    assert m.segment(2, 0, 6, WINDOW, 1) == A.BRIDGE
    assert m.deadline == 60
    assert m.timer(60) == A.FORGET
    assert (m.state, m.deadline) == (State.GONE, None)


def test_early_data_goes_to_the_wire_if_nobody_takes_it() -> None:
    m = Machine(Role.CLIENT, token=TOKEN, early=True, rtt=0.02)
    m.local(Event.START, 0)
    m.message(message("accept", own_token=PEER), 0)
    m.segment(1, 10, 1, WINDOW, 0)
    assert m.segment(11, 10, 1, WINDOW, 0) == A.SEND_DATA
    assert m.deadline == pytest.approx(0.03)
    assert m.timer(0.03) & A.WIRE_EARLY
    assert m.segment(21, 10, 1, WINDOW, 0.03) == A.BRIDGE
    m.message(message("engaged"), 0.04)
    assert decode(m.compose("engaged", 0.04))["position"] == 31


def test_a_pinned_flow_waits_for_its_peer_and_then_ends() -> None:
    for role in Role:
        m = Machine(role, pinned=True)
        assert m.local(Event.START, 0) & A.MARK
        assert m.segment(1, 10, 1, WINDOW, 0) == A.BRIDGE  # without its payload
        while m.state is State.OPENING:
            assert m.deadline is not None
            actions = m.timer(m.deadline)
        assert actions == A.ABORT | A.REPORT
        assert (m.state, m.reason) == (State.CLOSED, Reason.NO_ANSWER)


def test_whoever_asks_for_a_flow_that_is_not_here_hears_so() -> None:
    for kind in ("ping", "accept", "engaged", "data", "acked", "probe", "refused", "reset"):
        answer = answer_to_unknown(message(kind, epoch=3))
        assert answer is not None
        fields = decode(answer)
        assert (fields["kind"], fields["flags"], fields["token"], fields["epoch"]) == ("leave", 1, TOKEN, 3)
    for kind in ("pong", "leave", "reject", "hello"):
        assert answer_to_unknown(message(kind)) is None
    assert answer_to_unknown(encode("ping")) is None  # of no flow
    answer = answer_to_unknown(encode("open", epoch=3, token=1, own_token=PEER))
    assert answer is not None
    assert decode(answer)["kind"] == "reject"
    assert decode(answer)["token"] == PEER


def test_misuse_is_named() -> None:
    m = Machine(Role.CLIENT)
    with pytest.raises(ValueError, match="has a method of its own"):
        m.local(Event.TIMER, 0)
    with pytest.raises(MessageError, match="no message of a flow is called 'hello'"):
        m.compose("hello", 0)
    with pytest.raises(KeyError, match="no such field: trise"):
        m.configure(trise=3)
    with pytest.raises(ValueError, match="a flow has 128 bytes, this has 3"):
        m.thaw(b"abc")
    with pytest.raises(MessageError):
        m.message(b"abc", 0)


# ---- a warm service -------------------------------------------------------------------------


def early(**options: float) -> Machine:
    m = Machine(Role.CLIENT, token=TOKEN, **options)  # type: ignore[arg-type]
    assert m.local(Event.START_EARLY, 0) == A.MARK
    m.marked(1, 1, 1)
    return m


def test_open_goes_with_the_first_bytes_or_when_none_come() -> None:
    m = early()
    assert m.segment(1, 100, 1, WINDOW, 0) == A.SEND_OPEN | A.SEND_DATA
    assert m.segment(101, 100, 1, WINDOW, 0) == A.SEND_DATA
    m = early()
    assert m.deadline == pytest.approx(0.001)
    assert m.timer(0.001) == A.SEND_OPEN
    assert m.segment(1, 100, 1, WINDOW, 0.002) == A.SEND_DATA
    assert decode(m.compose("open", 0.002))["flags"] == 1


def test_early_data_is_no_more_than_is_kept_there() -> None:
    m = early()
    assert m.segment(1, 10_000, 1, WINDOW, 0) & A.SEND_DATA
    assert m.segment(10_001, 6384, 1, WINDOW, 0) == A.SEND_DATA
    assert m.segment(16_385, 1, 1, WINDOW, 0) == A.BRIDGE
    m.message(message("accept", own_token=PEER), 0)
    assert m.segment(16_386, 1, 1, WINDOW, 0) == A.BRIDGE
    assert decode(m.compose("engaged", 0))["position"] == 16_387  # these are on the wire


def test_early_data_bears_its_senders_token() -> None:
    m = early()
    m.segment(1, 4, 1, WINDOW, 0)
    said = decode(m.compose("data", 0, position=1, flags=1, data=b"abcd"))
    assert (said["token"], said["flags"]) == (TOKEN, 0x21)
    m.message(message("accept", own_token=PEER), 0)
    said = decode(m.compose("data", 0, position=1, flags=1, data=b"abcd"))
    assert (said["token"], said["flags"]) == (PEER, 1)
    assert answer_to_unknown(encode("data", epoch=1, token=TOKEN, flags=0x20, position=1, data=b"x")) is None


def test_an_early_client_is_engaged_by_one_answer() -> None:
    m = early()
    m.segment(1, 100, 1, WINDOW, 0)
    assert m.message(message("accept", own_token=PEER), 0) == A.SEND_ENGAGED
    assert m.state is State.BRIDGE
    assert m.message(message("engaged", position=1, flags=1), 0) == A.SEND_ENGAGED | A.SEND_ACKED
    assert m.state is State.ENGAGED


def test_what_overtakes_accept_is_kept() -> None:
    m = early()
    m.segment(1, 100, 1, WINDOW, 0)
    assert m.message(message("data", position=1, data=b"x"), 0) == A.KEEP
    assert m.message(message("accept", own_token=PEER), 0) == A.SEND_ENGAGED | A.SEND_ACKED
    assert m.state is State.ENGAGED


def test_an_early_server_keeps_data_until_its_socket_was_seen() -> None:
    m = Machine(Role.SERVER, token=TOKEN)
    assert m.message(message("open", own_token=PEER, flags=1), 0) == A.MARK | A.SEND_ACCEPT
    assert m.message(message("data", position=1, data=b"x"), 0) == A.KEEP | A.INJECT_PROBE
    assert m.segment(1, 0, 1, WINDOW, 0) & (A.SEND_ENGAGED | A.BRIDGE) == A.SEND_ENGAGED
    assert m.state is State.ENGAGED


def test_early_data_without_an_answer_goes_to_the_wire_and_is_no_try() -> None:
    m = early(rtt=0.01)
    m.segment(1, 100, 1, WINDOW, 0)
    assert m.deadline == pytest.approx(0.02)
    assert m.timer(0.02) == A.WIRE_EARLY
    assert m.segment(101, 10, 1, WINDOW, 0.02) == A.BRIDGE
    opens = 0
    while m.state is State.EARLY:
        assert m.deadline is not None
        opens += bool(m.timer(m.deadline) & A.SEND_OPEN)
    assert (opens, m.state, m.reason) == (3, State.LEFT, Reason.NO_ANSWER)


def test_a_closed_flow_does_not_send_away_who_repeats_himself() -> None:
    """What the transport repeats may come when the flow is over, and its sender waits for a last ACK."""
    for m in (engaged(Role.SERVER), engaged(Role.CLIENT)):
        m.local(Event.CLOSE, 0)
        assert m.message(message("engaged", position=1, flags=3), 0) == A.SEND_ACKED
        if m.numbers["role"] == Role.SERVER:
            assert m.message(message("open", own_token=PEER), 0) == A.SEND_ACKED
        assert m.message(message("data", position=1, data=b"x"), 0) == A.SEND_LEAVE
    m = Machine(Role.SERVER, token=TOKEN)
    m.message(message("open", own_token=PEER), 0)
    m.local(Event.CLOSE, 0)
    assert m.message(message("open", own_token=PEER), 0) == A.SEND_LEAVE  # who was not engaged there is


def reset_here() -> Machine:
    m = engaged()
    m.segment(1, 0, 1, 0, 0, rst=True)
    assert m.state is State.CLOSED
    return m


def test_a_reset_is_not_answered_by_a_reset() -> None:
    """Both applications have aborted: else their engines would answer each other for ever."""
    m = reset_here()
    assert not m.message(message("reset"), 0) & A.SEND_RESET
    assert m.message(message("acked", position=1, edge=500), 0) == A.SEND_RESET


def test_who_is_reset_by_the_peer_says_when_it_is_done() -> None:
    """A SYN with the same ports may have met its socket: probed, the other kernel sends it again."""
    m = engaged()
    assert m.message(message("reset"), 0) & A.INJECT_RST
    assert m.local(Event.CLOSE, 0) == A.SEND_RESET
    assert m.message(message("reset"), 0) == 0
    assert reset_here().message(message("reset"), 0) == A.INJECT_PROBE


def test_who_waits_for_its_first_segment_can_be_reset() -> None:
    """Nobody answers a RST, so its socket need not have been seen at hk0."""
    m = Machine(Role.SERVER, token=TOKEN)
    m.message(message("open", epoch=1, own_token=PEER), 0)
    assert m.state is State.ARMED
    assert m.message(message("reset"), 0) == A.INJECT_RST
    assert m.local(Event.CLOSE, 0) == A.SEND_RESET
    assert m.state is State.CLOSED
