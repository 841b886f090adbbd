# SPDX-License-Identifier: BSD-3-Clause
"""The way to a session: the server's key, and each place at which it can end."""

import json
from typing import Any

import pytest

from tests.unit.control.fake_server import URL, World
from ts4nsnet.control import State, events
from ts4nsnet.control.http import HttpResponse

KEY_URL = f"{URL}/key"
ONE = f"mkey:{'01' + '00' * 31}"  # a point of low order


def key_answer(value: object, status: int = 200) -> HttpResponse:
    return HttpResponse(status, {}, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("connection refused", "the server's key: connection refused"),
        (key_answer({}, 404), "is this a control server?"),
        (HttpResponse(200, {}, b""), "JSON"),
        (HttpResponse(200, {}, b"0123abcd"), "want"),
        (key_answer({"publicKey": "nodekey:00"}), "publicKey"),
        (key_answer({"legacyPublicKey": "mkey:" + "0" * 64}), "too old"),
        (key_answer({"publicKey": "mkey:" + "0" * 64}), "too old"),
        (key_answer({"publicKey": ONE}), "of no use"),
    ],
)
def test_a_server_key_that_is_none(answer: HttpResponse | str, text: str) -> None:
    world = World()
    world.server.fetch_answers[KEY_URL] = answer
    world.start()
    assert text in world.events(events.Disconnected)[0].reason
    del world.server.fetch_answers[KEY_URL]
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


def test_reports_on_numbers_that_nobody_awaits_are_ignored() -> None:
    world = World()
    client = world.start()
    before = client.status()
    client.connected(77, world.now)
    client.receive(77, b"x", world.now)
    client.disconnected(77, "no", world.now)
    client.fetched(77, "no", world.now)
    world.run()
    assert client.status() == before


class Stalled(World):
    """A world in which the adapter's reports do not come."""

    stalls: type = type(None)

    def _act(self) -> bool:
        while (action := self.client.next_action()) is not None:
            self.actions.append(action)
            if isinstance(action, self.stalls):
                continue
            match action:
                case events.Fetch(number, request):
                    self.client.fetched(number, self.server.fetch(request), self.now)
                case events.Dial(number=number):
                    self.client.connected(number, self.now)
                case _:
                    pass
        return False


@pytest.mark.parametrize("stalls", [events.Fetch, events.Dial, type(None)])
def test_what_takes_too_long_is_given_up(stalls: type) -> None:
    world = Stalled()
    world.stalls = stalls
    world.start()
    world.later(19.9)
    assert world.events(events.Disconnected) == []
    world.later(0.2)
    assert world.events(events.Disconnected)[0].reason == "control.example.com: no answer within 20 s"
    hung_up = [action for action in world.actions if isinstance(action, events.HangUp)]
    assert len(hung_up) == (0 if stalls is events.Fetch else 1)


def test_a_late_report_of_what_was_given_up_is_ignored() -> None:
    world = Stalled()
    world.stalls = events.Fetch
    world.start()
    world.later(20.1)
    first: Any = world.actions[0]
    world.client.fetched(first.number, "too late", world.now)
    assert world.client.status().last_error == "control.example.com: no answer within 20 s"


def test_a_connection_that_breaks_at_any_time() -> None:
    world = World()
    world.start()
    dial: Any = world.actions[1]
    world.client.disconnected(dial.number, "the connection broke", world.now)
    world.run()
    assert world.events(events.Disconnected)[-1].reason == "the connection broke"
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


def test_a_server_that_takes_no_more_requests_is_left() -> None:
    world = World()
    world.start()
    dial: Any = world.actions[1]
    no_streams = bytes.fromhex("000006040000000000" + "0003" + "00000000")
    world.client.receive(dial.number, world.server.poll.request.session.channel.seal(no_streams), world.now)
    world.server.poll.end()
    world.run()
    world.now += 1.0
    world.client.check_in(world.now)  # poll and update are due at once
    world.run()
    assert "outbound streams" in world.client.status().last_error
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


def test_bytes_that_are_no_record_drop_the_connection() -> None:
    world = World()
    world.start()
    dial: Any = world.actions[1]
    world.client.receive(dial.number, b"\x05\x00\x00", world.now)
    world.run()
    assert "frame of type 5" in world.events(events.Disconnected)[-1].reason
    assert world.actions[-1] == events.HangUp(dial.number)


def test_a_server_that_ends_the_connection_politely() -> None:
    world = World()
    world.start()
    session = world.server.poll.request.session
    goaway = session.channel.seal(bytes.fromhex("000008070000000000" + "00000000" + "00000000"))
    dial: Any = world.actions[1]
    world.client.receive(dial.number, goaway, world.now)
    world.run()
    assert world.events(events.Disconnected)[-1].reason == "the server ends the connection (0)"
    world.later(1.0)
    assert world.client.status().state is State.ONLINE
