# SPDX-License-Identifier: BSD-3-Clause
"""Dialling: the race of addresses in simulated time; proxies, TLS and every clear error on loopback."""

import re
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.unit.derp.certificates import Issued, issue
from ts4nsnet.dial import (
    DialError,
    Proxy,
    TlsOptions,
    check_certificate,
    dial,
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


async def test_the_first_that_connects_wins(autojump_clock: object) -> None:  # noqa: ARG001 - pytest-trio wants it as argument
    slow, quick, never = Runner(10.0, True), Runner(0.1, True), Runner(1.0, True)
    winner, time = await run_race(slow, quick, never)
    assert winner == 1
    assert time == pytest.approx(0.35)  # the second one starts after 250 ms
    assert never.started_at < 0
    assert not quick.closed


async def test_a_failure_starts_the_next_at_once(autojump_clock: object) -> None:  # noqa: ARG001 - pytest-trio wants it as argument
    winner, time = await run_race(Runner(0.01, False), Runner(0.01, False), Runner(0.1, True))
    assert winner == 2
    assert time == pytest.approx(0.12)


async def test_all_failures_are_told(autojump_clock: object) -> None:  # noqa: ARG001 - pytest-trio wants it as argument
    outcome, _ = await run_race(Runner(1.0, False), Runner(0.5, False))
    assert outcome == ["0.5", "1.0"]


async def test_who_comes_second_in_the_same_moment_is_closed(autojump_clock: object) -> None:  # noqa: ARG001 - pytest-trio wants it as argument
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


# --- servers on loopback --------------------------------------------------------------------------------------


Handler = Callable[[trio.abc.Stream], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server on a free port; the port."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def echo(stream: trio.abc.Stream) -> None:
    """Say what is said, until it ends."""
    async with stream:
        try:
            while data := await stream.receive_some(1000):
                await stream.send_all(data)
        except trio.BrokenResourceError:
            return  # who judged our certificate has left


def secure(certificate: Issued, folder: Path) -> Handler:
    """An echo over TLS."""
    context = certificate.server_context(folder)

    async def handle(stream: trio.abc.Stream) -> None:
        await echo(trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    return handle


async def says_hello(stream: trio.abc.Stream) -> bool:
    """Whether an echo is at the other end."""
    async with stream:
        await stream.send_all(b"hello")
        return await stream.receive_some(1000) == b"hello"


@pytest.fixture(name="trust")
def _trust(tmp_path: Path) -> dict[str, str]:
    """An environment that trusts our authority."""
    file = tmp_path / "ca.pem"
    file.write_bytes(AUTHORITY.pem)
    return {"SSL_CERT_FILE": str(file)}


async def test_a_plain_connection() -> None:
    async with served(echo) as port:
        assert await says_hello(await dial("127.0.0.1", port, environ={}))


async def test_known_addresses_are_tried_before_the_name() -> None:
    async with served(echo) as port:
        stream = await dial("name.that.is.not.invalid", port, addresses=LOOPBACK, environ={})
        assert await says_hello(stream)


async def test_ipv6_is_tried_as_well() -> None:
    async with served(echo) as port:
        assert await says_hello(await dial("h.invalid", port, addresses=["::1", "127.0.0.1"], environ={}))


async def test_where_known_addresses_fail_the_name_is_asked_for() -> None:
    async with served(echo) as port:
        assert await says_hello(await dial("127.0.0.1", port, addresses=["127.0.0.2"], environ={}))


async def test_a_refused_connection_names_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DialError, match=rf"127\.0\.0\.1:{port}: cannot connect: 127\.0\.0\.1:{port}: .*refused"):
            await dial("127.0.0.1", port, environ={})
        with pytest.raises(DialError, match=r"cannot connect.*refused"):
            await dial("h.invalid", port, addresses=LOOPBACK, environ={})


@pytest.mark.parametrize("host", ["h.invalid", "a" * 64 + ".test", "\udc80"])
async def test_a_name_without_an_address_is_told(host: str) -> None:
    with pytest.raises(DialError, match="cannot find the address"):
        await dial(host, 443, environ={})


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def silent(_stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with served(silent) as port:
        with pytest.raises(DialError, match=rf"{port}: no connection within 0.05 s"):
            await dial("127.0.0.1", port, tls=TlsOptions(), timeout=0.05, environ={})
        environ = {"HTTP_PROXY": f"http://127.0.0.1:{port}"}
        with pytest.raises(DialError, match=r"no connection by the proxy 127\.0\.0\.1"):
            await dial("h.invalid", 80, timeout=0.05, environ=environ)


# --- TLS ------------------------------------------------------------------------------------------------------


async def test_a_trusted_certificate(tmp_path: Path, trust: dict[str, str]) -> None:
    async with served(secure(GOOD, tmp_path)) as port:
        stream = await dial("127.0.0.1", port, tls=TlsOptions(), environ=trust)
        assert isinstance(stream, trio.SSLStream)
        assert await says_hello(stream)
        assert await says_hello(await dial(HOST, port, tls=TlsOptions(), addresses=LOOPBACK, environ=trust))


async def test_a_folder_of_trusted_certificates(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    environ = {"SSL_CERT_DIR": f"{tmp_path}/none:{folder}"}
    (folder / subject_hash(AUTHORITY, tmp_path)).write_bytes(AUTHORITY.pem)
    async with served(secure(GOOD, tmp_path)) as port:
        assert await says_hello(await dial("127.0.0.1", port, tls=TlsOptions(), environ=environ))


def subject_hash(issued: Issued, folder: Path) -> str:
    """The file's name under which OpenSSL looks for it, by the tool that knows."""
    file = folder / "subject.pem"
    file.write_bytes(issued.pem)
    output = subprocess.run(
        ["openssl", "x509", "-subject_hash", "-noout", "-in", str(file)], check=True, capture_output=True, text=True
    )
    return f"{output.stdout.strip()}.0"


async def test_a_certificate_that_signed_itself_is_its_own_authority(tmp_path: Path) -> None:
    file = tmp_path / "self.pem"
    file.write_bytes(SELF_SIGNED.pem)
    async with served(secure(SELF_SIGNED, tmp_path)) as port:
        environ = {"SSL_CERT_FILE": str(file)}
        assert await says_hello(await dial("127.0.0.1", port, tls=TlsOptions(), environ=environ))


@pytest.mark.parametrize(
    ("certificate", "options", "text"),
    [
        (SELF_SIGNED, TlsOptions(), "not trusted: self.signed certificate.*SSL_CERT_FILE"),
        (issue("other.test", by=AUTHORITY), TlsOptions(), "not trusted: IP address mismatch"),
        (issue("127.0.0.1", by=AUTHORITY, days=(-9, -1)), TlsOptions(), "not trusted: certificate has expired"),
        (GOOD, TlsOptions(server_name="other.test"), "not trusted: Hostname mismatch"),
        (GOOD, TlsOptions(certificate_name="other.test"), "not for 'other.test'"),
        (GOOD, TlsOptions(pin="0" * 64), "has SHA-256 .*, want 0000"),
        (GOOD, TlsOptions(pin=GOOD.pin.removeprefix("sha256-raw:").upper()), "has SHA-256"),
        (GOOD, TlsOptions(pin="0" * 64, insecure=True), "has SHA-256"),
    ],
)
async def test_a_certificate_that_is_not_trusted(
    certificate: Issued, options: TlsOptions, text: str, tmp_path: Path, trust: dict[str, str]
) -> None:
    async with served(secure(certificate, tmp_path)) as port:
        with pytest.raises(DialError, match=text):
            await dial("127.0.0.1", port, tls=options, environ=trust)


def pin(certificate: Issued) -> str:
    return sha256(certificate.der).hexdigest()


EXPIRED = issue("127.0.0.1", days=(-9, -1))
NAMELESS = issue(subject=HOST)
NAMED = issue(HOST)
WILD = issue("*.lab.test", by=AUTHORITY)


@pytest.mark.parametrize(
    ("certificate", "host", "options"),
    [
        (SELF_SIGNED, "127.0.0.1", TlsOptions(insecure=True)),
        (EXPIRED, "127.0.0.1", TlsOptions(insecure=True)),
        (NAMELESS, "127.0.0.1", TlsOptions(pin=pin(NAMELESS))),  # no SNI of an address, so no name either
        (NAMED, HOST, TlsOptions(pin=pin(NAMED))),
        (NAMELESS, HOST, TlsOptions(pin=pin(NAMELESS), insecure=True)),
        (GOOD, "other.test", TlsOptions(certificate_name=HOST)),
        (GOOD, "other.test", TlsOptions(certificate_name="127.0.0.1")),
        (WILD, "other.test", TlsOptions(certificate_name=HOST)),
        (GOOD, "other.test", TlsOptions(server_name=HOST)),
    ],
)
async def test_certificates_judged_otherwise(
    certificate: Issued, host: str, options: TlsOptions, tmp_path: Path, trust: dict[str, str]
) -> None:
    async with served(secure(certificate, tmp_path)) as port:
        assert await says_hello(await dial(host, port, tls=options, addresses=LOOPBACK, environ=trust))


@pytest.mark.parametrize(
    ("certificate", "options", "text"),
    [
        (NAMELESS, TlsOptions(pin=pin(NAMELESS)), f"not for '{HOST}'"),
        (SELF_SIGNED, TlsOptions(pin=pin(SELF_SIGNED)), f"not for '{HOST}'"),
        (EXPIRED, TlsOptions(pin=pin(EXPIRED)), "has expired"),
        (WILD, TlsOptions(certificate_name="a.b.lab.test"), "not for 'a.b.lab.test'"),
    ],
)
async def test_a_pin_leaves_dates_and_names_to_be_checked(
    certificate: Issued, options: TlsOptions, text: str, tmp_path: Path, trust: dict[str, str]
) -> None:
    async with served(secure(certificate, tmp_path)) as port:
        with pytest.raises(DialError, match=text):
            await dial(HOST, port, tls=options, addresses=LOOPBACK, environ=trust)


def test_a_certificate_that_is_none_is_told() -> None:
    with pytest.raises(DialError, match="h: its certificate is malformed"):
        check_certificate(b"x", TlsOptions(pin=sha256(b"x").hexdigest()), "h", "h")


async def test_what_speaks_no_tls_is_told() -> None:
    async with served(echo) as port:
        with pytest.raises(DialError, match=r"TLS failed: .*is it a TLS server"):
            await dial("127.0.0.1", port, tls=TlsOptions(), environ={})


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_of_certificates_that_cannot_be_read_is_told(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DialError, match=f"SSL_CERT_FILE={re.escape(str(file))}.*want a file of PEM"):
        await dial("127.0.0.1", 1, tls=TlsOptions(), environ={"SSL_CERT_FILE": str(file)})


# --- through a proxy ------------------------------------------------------------------------------------------


@dataclass
class FakeProxy:
    """Answers CONNECT as told and goes on with `behind`."""

    behind: Handler = echo
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    heard: list[bytes] = field(default_factory=list)

    async def handle(self, stream: trio.abc.Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (data := await stream.receive_some(1000)):
            head += data
        self.heard.append(head)
        await stream.send_all(self.answer)
        if self.answer.startswith(b"HTTP/1.1 200"):
            await self.behind(stream)
        await stream.aclose()


async def test_through_a_proxy(tmp_path: Path, trust: dict[str, str]) -> None:
    proxy = FakeProxy(secure(GOOD, tmp_path))
    async with served(proxy.handle) as port:
        environ = {**trust, "HTTPS_PROXY": f"http://u:{PASSWORD}@127.0.0.1:{port}"}
        assert await says_hello(await dial(HOST, 8443, tls=TlsOptions(), environ=environ))
    (head,) = proxy.heard
    assert head.startswith(b"CONNECT server.lab.test:8443 HTTP/1.1\r\nHost: server.lab.test:8443\r\n")
    assert b"Proxy-Authorization: Basic dTpoaWRkZW4=\r\n" in head


async def test_a_plain_connection_through_a_proxy_that_speaks_tls(tmp_path: Path, trust: dict[str, str]) -> None:
    proxy = FakeProxy(answer=b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
    context = GOOD.server_context(tmp_path)

    async def handle(stream: trio.abc.Stream) -> None:
        inner = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        head = await inner.receive_some(1000)
        proxy.heard.append(bytes(head))
        await inner.send_all(proxy.answer)
        await echo(inner)

    async with served(handle) as port:
        environ = {**trust, "ALL_PROXY": f"https://127.0.0.1:{port}"}
        assert await says_hello(await dial("fd00::1", 80, environ=environ))
    assert proxy.heard[0].startswith(b"CONNECT [fd00::1]:80 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "got 407, want 200; put user and password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "got 403, want 200; does it allow this port"),
        (b"SSH-2.0\r\n\r\n", "does not answer CONNECT; is it an HTTP proxy"),
        (b"", "does not answer CONNECT"),
        (b"HTTP/1.1 200 OK\r\n\r\n220 smtp", "says more than was asked"),
    ],
)
async def test_a_proxy_that_refuses(answer: bytes, text: str) -> None:
    proxy = FakeProxy(answer=answer)
    async with served(proxy.handle) as port:
        with pytest.raises(DialError, match=text) as raised:
            await dial("h.invalid", 80, environ={"HTTP_PROXY": f"http://u:{PASSWORD}@127.0.0.1:{port}"})
    assert PASSWORD not in str(raised.value)
    assert f"h.invalid:80: the proxy 127.0.0.1:{port}" in str(raised.value)
