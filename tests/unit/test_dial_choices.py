# SPDX-License-Identifier: BSD-3-Clause
"""Which way dialling goes: the race of addresses in simulated time, and which proxy is meant for whom."""

from dataclasses import dataclass

import pytest
import trio
import trio.testing

from tests.unit.derp.certificates import issue
from ts4nsnet.dial import (
    DialError,
    Proxy,
    interleave,
    join_host_port,
    proxy_for,
    race,
)

HOST = "server.lab.test"
AUTHORITY = issue(authority=True, subject="authority")
GOOD = issue(HOST, "127.0.0.1", by=AUTHORITY)
SELF_SIGNED = issue("127.0.0.1")
LOOPBACK = ("127.0.0.1",)
PASSWORD = "hidden"  # noqa: S105 - of a proxy that does not exist


# --- the race -------------------------------------------------------------------------------------------------


@dataclass
class Runner:
    """An attempt that takes so long, and succeeds or not."""

    seconds: float
    succeeds: bool
    started_at: float = -1.0
    closed: bool = False

    async def attempt(self) -> trio.abc.Stream:
        self.started_at = trio.current_time()
        await trio.sleep(self.seconds)
        if not self.succeeds:
            raise OSError(f"{self.seconds}")
        return _Stream(self)


class _Stream(trio.abc.Stream):
    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    async def aclose(self) -> None:
        self.runner.closed = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise NotImplementedError


async def run_race(*runners: Runner) -> tuple[int | list[str], float]:
    """Who won, or why nobody did; and after how long."""
    begin = trio.current_time()
    outcome = await race([runner.attempt for runner in runners])
    for runner in runners:
        runner.started_at -= begin
    time = trio.current_time() - begin
    if isinstance(outcome, list):
        return [str(error) for error in outcome], time
    assert isinstance(outcome, _Stream)
    return runners.index(outcome.runner), time


async def test_the_first_that_connects_wins(autojump_clock: object) -> None:
    slow, quick, never = Runner(10.0, True), Runner(0.1, True), Runner(1.0, True)
    winner, time = await run_race(slow, quick, never)
    assert winner == 1
    assert time == pytest.approx(0.35)  # the second one starts after 250 ms
    assert never.started_at < 0
    assert not quick.closed


async def test_a_failure_starts_the_next_at_once(autojump_clock: object) -> None:
    winner, time = await run_race(Runner(0.01, False), Runner(0.01, False), Runner(0.1, True))
    assert winner == 2
    assert time == pytest.approx(0.12)


async def test_all_failures_are_told(autojump_clock: object) -> None:
    outcome, _ = await run_race(Runner(1.0, False), Runner(0.5, False))
    assert outcome == ["0.5", "1.0"]


async def test_who_comes_second_in_the_same_moment_is_closed(autojump_clock: object) -> None:
    class Stubborn(Runner):
        async def attempt(self) -> trio.abc.Stream:
            stream: list[trio.abc.Stream] = []
            with trio.CancelScope(shield=True):
                stream.append(await super().attempt())
            return stream[0]

    first, second = Runner(0.5, True), Stubborn(1.0, True)
    winner, _ = await run_race(first, second)
    assert winner == 0
    assert (first.closed, second.closed) == (False, True)


@pytest.mark.parametrize(
    ("addresses", "turns"),
    [
        (["::1", "::2", "10.0.0.1"], ["::1", "10.0.0.1", "::2"]),
        (["10.0.0.1", "10.0.0.2", "10.0.0.1", "fe80::1%eth0"], ["10.0.0.1", "fe80::1%eth0", "10.0.0.2"]),
        ([], []),
    ],
)
def test_families_take_turns(addresses: list[str], turns: list[str]) -> None:
    assert interleave(addresses) == turns


def test_an_ipv6_address_has_brackets_before_a_port() -> None:
    assert join_host_port("fd00::1", 443) == "[fd00::1]:443"
    assert join_host_port("h", 443) == "h:443"


# --- proxies: which -------------------------------------------------------------------------------------------

P = Proxy("p", 3128, tls=False)


@pytest.mark.parametrize(
    ("environ", "tls", "proxy"),
    [
        ({}, True, None),
        ({"HTTPS_PROXY": "http://p:3128"}, True, P),
        ({"https_proxy": "p:3128"}, True, P),
        ({"HTTPS_PROXY": "http://p:3128"}, False, None),
        ({"HTTP_PROXY": "http://p:3128/"}, False, P),
        ({"HTTP_PROXY": "http://p:3128"}, True, None),
        ({"HTTPS_PROXY": "http://p:3128", "https_proxy": "http://q:1"}, True, P),
        ({"ALL_PROXY": "http://p:3128"}, True, P),
        ({"all_proxy": "http://p:3128"}, False, P),
        ({"ALL_PROXY": "socks5://p:1080"}, True, None),
        ({"HTTPS_PROXY": "http://p"}, True, Proxy("p", 80, tls=False)),
        ({"HTTPS_PROXY": "https://p"}, True, Proxy("p", 443, tls=True)),
        ({"HTTPS_PROXY": "http://u%40:hidden@p:3128"}, True, Proxy("p", 3128, False, "Basic dUA6aGlkZGVu")),
        ({"HTTPS_PROXY": "http://u@p:3128"}, True, Proxy("p", 3128, False, "Basic dTo=")),
    ],
)
def test_which_proxy(environ: dict[str, str], tls: bool, proxy: Proxy | None) -> None:
    assert proxy_for("server.example.com", 443, tls=tls, environ=environ) == proxy
    assert "hidden" not in repr(proxy)
    assert "Basic" not in repr(proxy)


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("server.example.com", "", False),
        ("server.example.com", "*", True),
        ("server.example.com", "example.com", True),
        ("server.example.com", ".example.com", True),
        ("server.example.com", "*.example.com", True),
        ("server.example.com", "SERVER.Example.com", True),
        ("server.example.com.", "server.example.com", True),
        ("example.com", ".example.com", False),
        ("badexample.com", "example.com", False),
        ("server.example.com", "other, server.example.com:443", True),
        ("server.example.com", "server.example.com:80", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "11.0.0.0/8 x.y", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "[fd00::1]:443", True),
        ("fd00::1", "fd00::1", True),
        ("localhost", "", True),
        ("127.0.0.1", "", True),
        ("::1", "", True),
    ],
)
def test_who_is_reached_without_a_proxy(host: str, no_proxy: str, direct: bool) -> None:
    environ = {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": no_proxy}
    assert (proxy_for(host, 443, tls=True, environ=environ) is None) == direct


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("socks5://u:hidden@p", "kind 'socks5', want http"),
        ("http://u:hidden@p:x", "not an URL"),
        ("http://", "no host"),
        ("http://[", "not an URL"),
    ],
)
def test_a_proxy_that_we_cannot_use_is_an_error(value: str, text: str) -> None:
    with pytest.raises(DialError, match=text) as raised:
        proxy_for("h", 443, tls=True, environ={"HTTPS_PROXY": value})
    assert "HTTPS_PROXY" in str(raised.value)
    assert "hidden" not in str(raised.value)
