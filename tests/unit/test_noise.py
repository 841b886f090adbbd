# SPDX-License-Identifier: BSD-3-Clause
"""The symmetric state of Noise: HKDF, and every chaining key, hash and cipher key of the recorded handshakes.

The traces name values that an object does not show. They are checked by what they do: two states with equal `h` seal
alike under one key, and the transport keys of `split` depend on nothing but `ck`.
"""

from typing import Any

import pytest

from tests.unit.wireguard.pair import VECTORS
from ts4nsnet.keys import PrivateKey
from ts4nsnet.noise import DecryptionFailed, SymmetricState, blake2s, hkdf
from ts4nsnet.wireguard.handshake import CONSTRUCTION, IDENTIFIER

CONSTANTS = VECTORS["constants"]
KEYS = {name: bytes.fromhex(key) for name, key in VECTORS["keys"].items() if isinstance(key, str)}
HANDSHAKES = VECTORS["handshakes"]
NAMES = [handshake["name"] for handshake in HANDSHAKES]


def test_constants_are_those_of_wireguard() -> None:
    assert CONSTRUCTION.decode() == CONSTANTS["construction"]
    assert IDENTIFIER.decode() == CONSTANTS["identifier"]
    chaining_key = blake2s(CONSTRUCTION)
    assert chaining_key.hex() == CONSTANTS["initial_chaining_key"]
    assert blake2s(chaining_key + IDENTIFIER).hex() == CONSTANTS["initial_hash"]


@pytest.mark.parametrize("row", VECTORS["kdf3"], ids=[f"input={row['input'][:6]}" for row in VECTORS["kdf3"]])
def test_hkdf(row: dict[str, Any]) -> None:
    chaining_key, material = bytes.fromhex(row["chaining_key"]), bytes.fromhex(row["input"])
    for outputs in (1, 2, 3):
        keys = hkdf(chaining_key, material, outputs)
        assert [key.hex() for key in keys] == row["outputs"][:outputs]


class Trace:
    """A handshake step by step, as both sides compute it: `ck`, `h` and cipher key after each token."""

    def __init__(self) -> None:
        self.chaining_key = blake2s(CONSTRUCTION)
        self.hash = blake2s(self.chaining_key + IDENTIFIER)
        self.key = b""
        self.state = SymmetricState(CONSTRUCTION, IDENTIFIER)

    def mix_hash(self, data: bytes) -> None:
        self.hash = blake2s(self.hash + data)
        self.state.mix_hash(data)

    def mix_key(self, material: bytes) -> None:
        self.chaining_key, self.key = hkdf(self.chaining_key, material, 2)
        self.state.mix_key(material)

    def mix_psk(self, psk: bytes) -> bytes:
        self.chaining_key, binding, self.key = hkdf(self.chaining_key, psk, 3)
        self.hash = blake2s(self.hash + binding)
        self.state.mix_key_and_hash(psk)
        return binding

    def seal(self, plaintext: bytes) -> bytes:
        sealed = self.state.encrypt_and_hash(plaintext)
        self.hash = blake2s(self.hash + sealed)
        return sealed


@pytest.mark.parametrize("handshake", HANDSHAKES, ids=NAMES)
def test_every_step_of_a_recorded_handshake(handshake: dict[str, Any]) -> None:
    static = PrivateKey(KEYS["initiator_static_private"])
    ephemeral = PrivateKey(KEYS["initiator_ephemeral_private"])
    remote = PrivateKey(KEYS["responder_static_private"])
    remote_ephemeral = PrivateKey(KEYS["responder_ephemeral_private"])
    seen: dict[str, bytes] = {}
    trace = Trace()

    trace.mix_hash(remote.public.raw)
    seen["h_after_responder_static"] = trace.hash
    trace.mix_hash(ephemeral.public.raw)
    trace.mix_key(ephemeral.public.raw)
    seen["ck_after_e"], seen["h_after_e"] = trace.chaining_key, trace.hash
    trace.mix_key(ephemeral.exchange(remote.public))
    seen["ck_after_es"], seen["key_static"] = trace.chaining_key, trace.key
    seen["encrypted_static"] = trace.seal(static.public.raw)
    seen["h_after_static"] = trace.hash
    trace.mix_key(static.exchange(remote.public))
    seen["ck_after_ss"], seen["key_timestamp"] = trace.chaining_key, trace.key
    seen["encrypted_timestamp"] = trace.seal(bytes.fromhex(handshake["timestamp_tai64n"]))
    seen["h_after_timestamp"] = trace.hash
    assert {name: value.hex() for name, value in seen.items()} == handshake["initiation_trace"]

    seen.clear()
    trace.mix_hash(remote_ephemeral.public.raw)
    trace.mix_key(remote_ephemeral.public.raw)
    seen["ck_after_e"], seen["h_after_e"] = trace.chaining_key, trace.hash
    trace.mix_key(remote_ephemeral.exchange(ephemeral.public))
    seen["ck_after_ee"] = trace.chaining_key
    trace.mix_key(remote_ephemeral.exchange(static.public))
    seen["ck_after_se"] = trace.chaining_key
    seen["tau"] = trace.mix_psk(bytes.fromhex(handshake["preshared_key"]))
    seen["ck_after_psk"], seen["h_after_psk"], seen["key_empty"] = trace.chaining_key, trace.hash, trace.key
    seen["encrypted_empty"] = trace.seal(b"")
    seen["h_final"] = trace.hash
    assert {name: value.hex() for name, value in seen.items()} == handshake["response_trace"]

    send, receive = trace.state.split()
    assert send.hex() == handshake["key_initiator_to_responder"]
    assert receive.hex() == handshake["key_responder_to_initiator"]


def pair() -> tuple[SymmetricState, SymmetricState]:
    sender, receiver = SymmetricState(b"Noise", b"prologue"), SymmetricState(b"Noise", b"prologue")
    sender.mix_key(b"secret")
    receiver.mix_key(b"secret")
    return sender, receiver


def test_a_short_protocol_name_is_padded_not_hashed() -> None:
    assert SymmetricState(b"Noise", b"").split() == SymmetricState(b"Noise".ljust(32, b"\0"), b"").split()
    assert SymmetricState(b"N" * 33, b"").split() == SymmetricState(blake2s(b"N" * 33), b"").split()


def test_fields_open_in_their_order_and_nonces_count_up() -> None:
    sender, receiver = pair()
    first, second = sender.encrypt_and_hash(b"same"), sender.encrypt_and_hash(b"same")
    assert first != second
    assert len(first) == len(b"same") + 16
    assert receiver.decrypt_and_hash(first) == b"same"
    assert receiver.decrypt_and_hash(second) == b"same"
    assert sender.split() == receiver.split()


@pytest.mark.parametrize("at", range(20))
def test_a_changed_field_does_not_open(at: int) -> None:
    sender, receiver = pair()
    sealed = bytearray(sender.encrypt_and_hash(b"text"))
    sealed[at] ^= 1
    with pytest.raises(DecryptionFailed):
        receiver.decrypt_and_hash(bytes(sealed))


def test_another_prologue_is_another_handshake() -> None:
    sender, _ = pair()
    receiver = SymmetricState(b"Noise", b"prolog")
    receiver.mix_key(b"secret")
    with pytest.raises(DecryptionFailed):
        receiver.decrypt_and_hash(sender.encrypt_and_hash(b"text"))


def test_a_copy_is_independent() -> None:
    sender, receiver = pair()
    sealed = sender.encrypt_and_hash(b"text")
    spoiled = receiver.copy()
    with pytest.raises(DecryptionFailed):
        spoiled.decrypt_and_hash(bytes(len(sealed)))
    assert receiver.decrypt_and_hash(sealed) == b"text"


def test_a_pattern_that_seals_before_any_key_is_a_mistake_of_ours() -> None:
    with pytest.raises(RuntimeError, match="order of tokens"):
        SymmetricState(b"Noise", b"").encrypt_and_hash(b"")
