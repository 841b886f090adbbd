# SPDX-License-Identifier: BSD-3-Clause
"""Expiry and renewal of node keys (control.md 4.5), and signatures of locked tailnets, against a fake server."""

import pytest

from tests.unit.control.fake_server import REFUSAL, REGISTER, WRAPPED, World, b64, iso, key_text
from ts4nsnet.control import State, credential, events
from ts4nsnet.control.credentials import AuthKey
from ts4nsnet.control.lock import LockKey
from ts4nsnet.keys import PrivateKey

# --- expiry and renewal ---------------------------------------------------------------------------------------


def test_an_expired_key_is_replaced_at_start() -> None:
    world = World(registered=True)
    world.server.expired.add(key_text(world.node))
    world.start()
    assert len(world.events(events.NodeKeyExpired)) == 1
    (registered,) = world.events(events.Registered)
    assert registered.changed
    check, renewal = world.server.registers
    assert "Auth" not in check
    assert renewal["OldNodeKey"] == check["NodeKey"] == key_text(world.node)
    assert renewal["Auth"]
    assert world.client.status().key_expired is False


def test_an_expired_key_without_a_credential_needs_a_login_while_the_poll_goes_on() -> None:
    world = World(credential=None, registered=True)
    world.start()
    world.server.expired.add(key_text(world.node))
    world.server.poll.send({"Node": world.server.node(key_text(world.node), KeyExpiry=iso(-1.0))})
    world.run()
    (login,) = world.events(events.LoginUrlReceived)
    assert len(world.events(events.NodeKeyExpired)) == 1
    assert world.client.status().state is State.NEEDS_LOGIN
    assert world.client.status().key_expired
    assert len(world.server.polls) == 1
    world.server.visit(login.url)
    world.run()
    assert world.events(events.Registered)[-1].changed
    assert world.client.status().state is State.ONLINE
    assert world.server.registers[-1]["OldNodeKey"] == key_text(world.node)


def test_a_key_that_is_good_again_needs_no_login() -> None:
    world = World(credential=None, registered=True)
    world.start()
    world.server.expired.add(key_text(world.node))
    world.server.poll.send({"Node": world.server.node(key_text(world.node), KeyExpiry=iso(-1.0))})
    world.run()
    world.server.poll.send({"Node": world.server.node(key_text(world.node))})
    world.run()
    assert world.client.status().state is State.ONLINE
    assert not world.client.status().key_expired
    assert world.server.held[-1].gone
    assert len(world.server.polls) == 1


def test_404_of_an_expired_node_is_no_second_expiry() -> None:
    world = World(credential=None, registered=True)
    world.start()
    world.server.expired.add(key_text(world.node))
    world.server.poll.send({"Node": world.server.node(key_text(world.node), KeyExpiry=iso(-1.0))})
    world.run()
    world.server.say("/machine/map", (404, b"node not found\n"))
    world.client.check_in(world.now)
    world.run()
    assert len(world.events(events.NodeKeyExpired)) == 1
    assert world.client.status().state is State.NEEDS_LOGIN


def test_the_expiry_of_another_key_is_none_of_ours() -> None:
    world = World()
    world.start()
    world.server.poll.send({"Node": world.server.node(f"nodekey:{7:064x}", KeyExpiry=iso(-1.0))})
    world.run()
    assert world.events(events.NodeKeyExpired) == []


def test_a_key_is_renewed_before_its_time_and_the_poll_stays_until_then() -> None:
    world = World()
    world.start()
    before = world.events(events.Registered)[-1].node_key
    world.server.poll.send({"Node": world.server.node(key_text(before), KeyExpiry=iso(1000.0))})
    world.run()
    for _ in range(18):
        world.later(49.9)
        world.server.poll.send({"KeepAlive": True})
        world.run()
    assert len(world.server.registers) == 1
    world.later(5.0)
    after = world.events(events.Registered)[-1]
    assert after.changed
    assert world.server.registers[-1]["OldNodeKey"] == key_text(before)
    assert world.events(events.NodeKeyExpired) == []
    assert world.events(events.Disconnected) == []
    assert world.netmap.self_node.key == after.node_key.public


def test_a_renewal_that_is_refused_is_tried_again_at_the_expiry() -> None:
    world = World(credential=AuthKey("tskey-auth-once"))
    world.server.auth_keys["tskey-auth-once"] = 1
    world.start()
    world.server.poll.send({"Node": world.server.node(key_text(world.node), KeyExpiry=iso(100.0))})
    world.run()
    world.later(95.0)
    assert len(world.events(events.RegistrationRefused)) == 1
    assert world.client.status().state is State.ONLINE
    assert len(world.server.registers) == 2
    world.server.expired.add(key_text(world.node))
    world.later(6.0)
    assert len(world.events(events.NodeKeyExpired)) == 1
    assert world.client.status().state is State.REFUSED
    world.server.auth_keys["tskey-auth-once"] = 1
    world.later(60.0)
    assert world.events(events.Registered)[-1].changed
    assert world.client.status().state is State.ONLINE


def test_a_key_is_renewed_on_request() -> None:
    world = World()
    world.start()
    world.client.renew_key(world.now)
    world.client.renew_key(world.now)
    world.run()
    assert [event.changed for event in world.events(events.Registered)] == [False, True]
    assert len(world.server.polls) == 2
    assert world.server.polls[0].request.gone


def test_404_during_a_renewal_ends_the_renewal() -> None:
    world = World()
    world.start()
    world.server.say(REGISTER, None)
    world.client.renew_key(world.now)
    world.run()
    renewal = world.server.requests[-1]
    world.server.known.clear()
    world.client.check_in(world.now)
    world.run()
    world.later(1.0)
    assert renewal.gone
    assert world.events(events.Registered)[-1].changed
    assert world.client.status().state is State.ONLINE


def test_a_renewal_is_refused_while_its_key_is_good_and_asked_for_again_by_hand() -> None:
    world = World()
    world.start()
    world.server.say(REGISTER, (200, {**REFUSAL, "Error": "not now"}))
    world.client.renew_key(world.now)
    world.run()
    world.later(30.0)
    assert world.client.status().state is State.ONLINE
    assert len(world.server.registers) == 2
    world.client.renew_key(world.now)
    world.run()
    assert world.events(events.Registered)[-1].changed


def test_a_registration_that_the_server_gives_up_is_repeated() -> None:
    world = World()
    world.server.say(REGISTER, lambda request: request.session.reset(request.stream))
    world.start()
    assert world.client.status().last_error == "register: the server has given it up (8)"
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


def test_a_tailnet_of_several_is_asked_for() -> None:
    world = World(tailnet="required:example.com")
    world.start()
    assert world.server.registers[0]["Tailnet"] == "required:example.com"


def test_a_fresh_key_called_expired_is_waited_for() -> None:
    world = World(registered=True)
    world.server.say(REGISTER, *[(200, {**REFUSAL, "NodeKeyExpired": True})] * 2)
    world.start()
    assert "fresh node key" in world.client.status().last_error
    world.later(1.0)
    assert world.client.status().state is State.ONLINE


# --- tailnet lock ---------------------------------------------------------------------------------------------


def test_a_wrapped_key_is_cut_and_signs_our_node_key() -> None:
    key = credential(auth_key=WRAPPED)
    world = World(credential=key)
    world.start()
    (request,) = world.server.registers
    assert request["Auth"] == {"AuthKey": "tskey-auth-good"}
    assert len(request["NodeKeySignature"]) > 300
    assert world.client.status().state is State.ONLINE


def test_a_returned_signature_is_made_ours_with_a_new_key() -> None:
    lock = LockKey(bytes(range(32)))
    old = lock.sign_rotation(PrivateKey(bytes(32)).public, bytes.fromhex("a10101"))
    world = World(lock_seed=bytes(range(32)))
    world.server.say(REGISTER, (200, {**REFUSAL, "NodeKeySignature": b64(old)}))
    world.start()
    first, second = world.server.registers
    assert first["NLKey"] == second["NLKey"] == f"nlpub:{lock.public.hex()}"
    assert second["OldNodeKey"] == first["NodeKey"]
    assert second["NodeKeySignature"]
    assert world.client.status().state is State.ONLINE


@pytest.mark.parametrize("lock_seed", [b"", bytes(32)])
def test_a_locked_tailnet_that_wants_more_than_we_have_is_told(lock_seed: bytes) -> None:
    world = World(lock_seed=lock_seed)
    answer = (200, {**REFUSAL, "NodeKeySignature": b64(bytes.fromhex("a10101"))})
    world.server.say(REGISTER, answer, answer)
    world.start()
    (refused,) = world.events(events.RegistrationRefused)
    assert refused.reason is events.Reason.LOCKED
    assert "tailscale lock sign" in refused.advice


def test_a_returned_signature_that_is_none_is_waited_for() -> None:
    world = World(lock_seed=bytes(32))
    world.server.say(REGISTER, (200, {**REFUSAL, "NodeKeySignature": b64(b"x")}))
    world.start()
    assert "tailnet lock" in world.client.status().last_error
