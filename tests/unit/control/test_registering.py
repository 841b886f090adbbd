# SPDX-License-Identifier: BSD-3-Clause
"""Getting into the tailnet: the flows of control.md 4.2 to 4.4, against a fake server."""

from typing import Any

import pytest

from tests.unit.control.fake_server import REFUSAL, REGISTER, URL, World, iso, key_text
from ts4nsnet.control import ControlError, State, events
from ts4nsnet.control.credentials import AuthKey
from ts4nsnet.control.register import Authorized, Login, Why
from ts4nsnet.keys import PrivateKey

# --- joining --------------------------------------------------------------------------------------------------


def test_an_auth_key_lets_us_in_and_the_poll_opens_at_once() -> None:
    world = World(ephemeral=True)
    client = world.start()
    (registered,) = world.events(events.Registered)
    assert registered.node_key.public == world.node.public
    assert (registered.changed, registered.login_name, registered.authorized) == (False, "u@example.com", True)
    assert client.status().state is State.ONLINE
    assert world.netmap.self_node.host_name == "box"
    (request,) = world.server.registers
    assert request["Version"] == 130
    assert request["Auth"] == {"AuthKey": "tskey-auth-good"}
    assert request["OldNodeKey"] == f"nodekey:{'0' * 64}"
    assert request["Ephemeral"] is True
    assert request["Hostinfo"]["RequestTags"] == ["tag:box"]
    # register, then poll and update in one flight
    assert [each.path for each in world.server.requests] == [REGISTER, "/machine/map", "/machine/map"]
    assert world.now == pytest.approx(1_000_000.0)


def test_the_servers_key_is_fetched_once() -> None:
    world = World()
    world.start()
    world.break_connection()
    world.later(1.0)
    assert [fetch.url for fetch in world.server.fetches] == [f"{URL}/key?v=130"]
    assert len(world.server.polls) == 2


def test_control_url_with_a_port_of_its_own() -> None:
    world = World(url="http://[fd00::1]:8080/")
    world.start()
    assert [fetch.url for fetch in world.server.fetches] == ["http://[fd00::1]:8080/key?v=130"]
    dials = [action for action in world.actions if isinstance(action, events.Dial)]
    assert [(dial.host, dial.port, dial.tls) for dial in dials] == [("fd00::1", 8080, False)]
    assert world.server.hosts == ["[fd00::1]:8080"]


@pytest.mark.parametrize("url", ["control.example.com", "ftp://control.example.com", "https://", "https://a:b"])
def test_a_control_url_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(ControlError, match="want https"):
        World(url=url).start()


def test_a_login_url_is_told_once_and_the_visit_lets_us_in() -> None:
    world = World(credential=None)
    client = world.start()
    (login,) = world.events(events.LoginUrlReceived)
    assert client.status().state is State.NEEDS_LOGIN
    assert client.status().login_url == login.url
    assert world.server.registers[-1]["Followup"] == login.url
    assert world.server.registers[-1]["NodeKey"] == key_text(world.node)
    world.later(3600.0)  # the server holds the request; it is no reason to hang up
    assert len(world.server.registers) == 2
    world.server.visit(login.url)
    world.run()
    assert len(world.events(events.Registered)) == 1
    assert len(world.events(events.LoginUrlReceived)) == 1
    assert client.status().state is State.ONLINE


def test_a_followup_is_repeated_after_a_lost_connection() -> None:
    world = World(credential=None)
    world.start()
    (login,) = world.events(events.LoginUrlReceived)
    world.break_connection()
    world.later(1.0)
    assert [request["Followup"] for request in world.server.registers] == ["", login.url, login.url]
    world.server.visit(login.url)
    world.run()
    assert len(world.events(events.Registered)) == 1


def test_another_login_url_is_told_as_well() -> None:
    world = World(credential=None)
    world.server.say(REGISTER, (200, {**REFUSAL, "AuthURL": f"{URL}/a"}), (200, {**REFUSAL, "AuthURL": f"{URL}/b"}))
    world.start()
    world.later(1.0)
    assert [event.url for event in world.events(events.LoginUrlReceived)] == [f"{URL}/a", f"{URL}/b"]
    assert world.server.registers[-1]["Followup"] == f"{URL}/b"


def test_a_login_url_that_never_changes_is_asked_for_slowly() -> None:
    world = World(credential=None)
    world.server.say(REGISTER, *[(200, {**REFUSAL, "AuthURL": f"{URL}/a"})] * 1000)
    world.start()
    world.later(60.0)
    assert len(world.events(events.LoginUrlReceived)) == 1
    assert len(world.server.registers) < 60


def test_a_login_url_that_comes_back_is_not_told_again() -> None:
    world = World(credential=None)
    pending = (200, {**REFUSAL, "AuthURL": f"{URL}/a"})
    world.server.say(REGISTER, pending, (200, {**REFUSAL, "Error": "session lost"}), pending)
    world.start()
    world.later(1.0)
    assert [request["Followup"] for request in world.server.registers] == ["", f"{URL}/a", "", f"{URL}/a"]
    assert len(world.events(events.LoginUrlReceived)) == 1


def test_one_login_url_after_the_other_is_no_storm() -> None:
    world = World(credential=None)
    world.server.say(REGISTER, *((200, {**REFUSAL, "AuthURL": f"{URL}/{number}"}) for number in range(1000)))
    world.start()
    world.later(60.0)
    assert len(world.server.registers) < 60


def test_a_login_url_is_given_up_after_a_week() -> None:
    world = World(credential=None)
    world.start()
    week = 7 * 86400.0
    world.later(week)
    world.break_connection()
    world.later(1.0)
    assert world.server.registers[-2]["Followup"] == ""
    assert len(world.events(events.LoginUrlReceived)) == 2


@pytest.mark.parametrize("url", ["http://control.example.com/a", "javascript:alert(1)", "x"])
def test_a_login_url_of_another_kind_is_not_shown(url: str) -> None:
    world = World(credential=None)
    world.server.say(REGISTER, (200, {**REFUSAL, "AuthURL": url}))
    world.start()
    assert world.events(events.LoginUrlReceived) == []


# --- with valid state the key is never sent again -------------------------------------------------------------


def test_a_registered_node_sends_no_key() -> None:
    world = World(registered=True)
    world.start()
    (request,) = world.server.registers
    assert "Auth" not in request
    assert world.client.status().state is State.ONLINE


def test_a_restart_of_the_server_needs_no_registration() -> None:
    world = World()
    world.start()
    world.server.up = False
    world.break_connection()
    world.later(30.0)
    assert world.client.status().state is State.RECONNECTING
    world.server.up = True
    world.later(7.0)
    assert world.client.status().state is State.ONLINE
    assert len(world.server.registers) == 1


def test_a_registered_node_whose_server_forgot_it_registers_anew() -> None:
    world = World(registered=True)
    world.server.say(REGISTER, (200, {**REFUSAL, "AuthURL": f"{URL}/register/1"}))
    world.start()
    (registered,) = world.events(events.Registered)
    assert registered.changed
    check, join = world.server.registers
    assert "Auth" not in check
    assert join["Auth"] == {"AuthKey": "tskey-auth-good"}
    assert join["NodeKey"] != check["NodeKey"]
    assert world.events(events.LoginUrlReceived) == []


def test_a_server_that_wants_the_credential_each_time_gets_it_with_the_same_key() -> None:
    world = World(registered=True)
    world.server.say(REGISTER, (200, {**REFUSAL, "Error": "invalid authkey"}))
    world.start()
    check, join = world.server.registers
    assert "Auth" not in check
    assert join["Auth"] == {"AuthKey": "tskey-auth-good"}
    assert join["NodeKey"] == check["NodeKey"]
    assert world.events(events.RegistrationRefused) == []
    assert world.client.status().state is State.ONLINE


def test_404_to_the_poll_registers_anew_under_the_same_name() -> None:
    world = World()
    world.start()
    world.server.known.clear()
    world.server.poll.end()
    world.run()
    world.later(1.0)
    first, again = world.events(events.Registered)
    assert again.changed
    assert again.node_key.public != first.node_key.public
    assert world.server.registers[-1]["Hostinfo"]["Hostname"] == "box"
    assert world.client.status().state is State.ONLINE
    assert world.netmap.self_node.key == again.node_key.public


def test_a_deletion_is_noticed_within_minutes_though_keep_alives_go_on() -> None:
    world = World()
    world.start()
    world.server.known.clear()
    for _ in range(6):
        world.later(50.0)
        world.server.poll.send({"KeepAlive": True})
        world.run()
    assert len(world.events(events.Registered)) == 2
    assert world.client.status().state is State.ONLINE


def test_404_and_a_spent_key_is_a_clear_state_and_not_a_storm() -> None:
    world = World(credential=AuthKey("tskey-auth-once"))
    world.server.auth_keys["tskey-auth-once"] = 1
    world.start()
    world.server.known.clear()
    world.client.check_in(world.now)
    world.run()
    world.later(60.0)
    (refused,) = world.events(events.RegistrationRefused)
    assert refused.text == "authkey already used"
    assert refused.reason is events.Reason.SPENT
    assert "reusable" in refused.advice
    assert world.client.status().state is State.REFUSED
    assert world.client.status().last_error == "authkey already used"
    assert len(world.server.registers) < 30
    # once the administrator has made it good
    world.server.auth_keys["tskey-auth-once"] = 1
    world.later(60.0)
    assert world.client.status().state is State.ONLINE


def test_404_while_the_server_knows_the_node_after_all_costs_no_key() -> None:
    world = World()
    world.start()
    world.server.say("/machine/map", (404, b"node not found\n"))
    world.client.check_in(world.now)
    world.run()
    world.later(1.0)
    assert [("Auth" in request) for request in world.server.registers] == [True, False]
    assert [event.changed for event in world.events(events.Registered)] == [False, False]
    assert world.client.status().state is State.ONLINE


def test_404_to_both_requests_is_one_doubt() -> None:
    world = World()
    world.start()
    world.server.known.clear()
    world.server.poll.end()
    world.run()
    world.now += 1.0
    world.client.check_in(world.now)
    world.run()
    world.later(1.0)
    assert [("Auth" in request) for request in world.server.registers] == [True, False, True]


def test_404_and_500_at_once_during_a_renewal() -> None:
    world = World()
    world.start()
    world.server.say(REGISTER, None)
    world.client.renew_key(world.now)
    world.run()
    world.server.say("/machine/map", None, None)
    world.server.poll.end()
    world.run()
    world.now += 1.0
    world.client.check_in(world.now)
    world.run()
    poll, update = world.server.requests[-2:]
    poll.answer(500, b"no\n")
    update.answer(404, b"node not found\n")
    world.run()
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


def test_the_rules_of_one_login_by_hand() -> None:
    key = PrivateKey(bytes(range(32)))
    login = Login(key, registered=True, credential=None, lock=None, random=bytes)
    login.renew(Why.EXPIRED)  # while it is being checked, nothing is renewed
    login.cancel_renewal()
    assert login.attempt is not None
    assert login.attempt.why is Why.CHECK
    login.take(Authorized("", "", True), 0.0)
    login.cancel_renewal()
    with pytest.raises(RuntimeError, match="no registration is due"):
        login.take(Authorized("", "", True), 0.0)
    login.renew(Why.RENEW)
    login.renew(Why.EXPIRED)
    assert login.request(130, {}, ephemeral=False, tailnet="", now=0.0).old == key.public


def test_404_without_a_credential_shows_a_login_url() -> None:
    world = World(credential=None, registered=True)
    world.start()
    world.server.known.clear()
    world.client.check_in(world.now)
    world.run()
    assert len(world.events(events.LoginUrlReceived)) == 1
    assert world.client.status().state is State.NEEDS_LOGIN


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("authkey already used", events.Reason.SPENT),
        ("one-time auth key has been used", events.Reason.SPENT),
        ("authkey expired", events.Reason.EXPIRED),
        ("invalid pre auth key", events.Reason.INVALID),
        ("failed to parse auth-key: secret length mismatch, expected 64 chars, got 71", events.Reason.INVALID),
        ("requested tags are not permitted", events.Reason.OTHER),
    ],
)
def test_a_refusal_is_told_with_its_reason(text: str, reason: events.Reason) -> None:
    world = World()
    world.server.say(REGISTER, (200, {**REFUSAL, "Error": text}))
    world.start()
    (refused,) = world.events(events.RegistrationRefused)
    assert (refused.text, refused.reason) == (text, reason)
    assert refused.advice
    world.later(1.0)
    assert world.client.status().state is State.ONLINE
    # the same key again: the server may have heard the first one
    assert len({request["NodeKey"] for request in world.server.registers}) == 1


def test_a_refusal_that_repeats_our_key_is_told_without_it() -> None:
    world = World()
    world.server.say(REGISTER, (200, {**REFUSAL, "Error": "no such key: tskey-auth-good"}))
    world.start()
    (refused,) = world.events(events.RegistrationRefused)
    assert refused.text == "no such key: …"
    assert "tskey-auth-good" not in repr(world.told)


def test_a_lost_answer_is_asked_for_again_with_the_same_node_key() -> None:
    world = World(credential=AuthKey("tskey-auth-once"))
    world.server.auth_keys["tskey-auth-once"] = 1

    def swallow(request: Any) -> None:
        world.server.known[request.json["NodeKey"]] = 1
        world.server.auth_keys["tskey-auth-once"] = 0

    world.server.say(REGISTER, swallow)
    world.start()
    world.break_connection()
    world.later(1.0)
    assert world.client.status().state is State.ONLINE
    assert world.events(events.RegistrationRefused) == []


@pytest.mark.parametrize("status", [400, 401, 500, 503])
def test_an_error_of_the_server_is_waited_for(status: int) -> None:
    world = World()
    world.server.say(REGISTER, (status, b"no\n"))
    world.start()
    assert f"status {status}" in world.client.status().last_error
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"Error":1}', b'{"NodeKeySignature":"!"}', b'{"Login":3}'])
def test_an_answer_that_cannot_be_read_is_waited_for(body: bytes) -> None:
    world = World()
    world.server.say(REGISTER, (200, body))
    world.start()
    assert "register: " in world.client.status().last_error
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("30", 30.0, 30.0), (iso(0.0), 5.0, 10.0), ("x", 5.0, 10.0), ("0", 5.0, 10.0), ("99999999", 5.0, 10.0),
     ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0, 60.0), (None, 5.0, 10.0)],
)  # fmt: skip
def test_429_is_heeded(value: str | None, low: float, high: float) -> None:
    world = World()
    headers = {"retry-after": value} if value is not None else {}
    world.server.say(REGISTER, lambda request: request.answer(429, b"slow down\n", headers))
    world.start()
    (limited,) = world.events(events.RateLimited)
    assert limited.text == "slow down"
    assert low <= limited.retry_time <= high
    world.later(limited.retry_time - 0.1)
    assert len(world.server.registers) == 1
    world.later(0.2)
    assert world.client.status().state is State.ONLINE
