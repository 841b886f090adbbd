# SPDX-License-Identifier: BSD-3-Clause
"""Dialling on loopback: names and addresses, TLS, proxies, and every clear error."""

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
    TlsOptions,
    check_certificate,
    dial,
)

HOST = "server.lab.test"
AUTHORITY = issue(authority=True, subject="authority")
GOOD = issue(HOST, "127.0.0.1", by=AUTHORITY)
SELF_SIGNED = issue("127.0.0.1")
LOOPBACK = ("127.0.0.1",)
PASSWORD = "hidden"  # noqa: S105 - of a proxy that does not exist


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


@pytest.mark.parametrize("name", ["", ".x", "\u00e9" * 80, "a\0b"], ids=["empty", "dot", "long", "nul"])
async def test_a_name_that_tls_cannot_be_told_is_an_error_of_ours(name: str) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, _hold, listeners)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(DialError):
            await dial(name, port, tls=TlsOptions(), addresses=["127.0.0.1"], timeout=5, environ={})
        nursery.cancel_scope.cancel()


async def _hold(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()
