# SPDX-License-Identifier: BSD-3-Clause
"""From a name and a port to a stream: resolve, race the addresses, pass the proxy, put TLS on top.

    resolve ─► race (IPv6 and IPv4 by turns, 250 ms apart, the first that connects wins) ─┬─────────────► TLS ─► stream
                                                                                          └─ CONNECT ──┘
* **Addresses.** With `addresses` given nobody is asked for the name, unless all of them fail.
* **Proxy.** HTTPS_PROXY for TLS, HTTP_PROXY for plain connections, else ALL_PROXY, in either case of letters; NO_PROXY
  names those that are reached directly: names (with all below them), `.suffixes`, addresses, prefixes, `*`, each maybe
  with a port. Loopback never goes by a proxy. Always by CONNECT, as what we speak is no plain HTTP after its first
  lines. A SOCKS proxy in ALL_PROXY is passed over; one in the other two is an error, as who set it relies on it.
* **Trust.** What OpenSSL trusts on this machine, and SSL_CERT_FILE, SSL_CERT_DIR. A relay's certificate may be judged
  otherwise (`TlsOptions`): by another name, by its hash, or not at all.

Every failure is a `DialError` that says how far we got, with which address, and what can be done. Environment and
files are read anew at each dial, so that a renewed certificate file works without a restart.

Source: RFC 8305 (racing), RFC 9110 9.3.6 (CONNECT), golang.org/x/net/http/httpproxy (variables), derp.md 1.5, 1.6.
"""

import base64
import hashlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from itertools import zip_longest
from urllib.parse import unquote, urlsplit

import h11
import trio
from cryptography import x509

from ts4nsnet.errors import Ts4nsnetError

RACE_DELAY_TIME = 0.25  # seconds; RFC 8305, 8
DIAL_TIMEOUT = 10.0  # seconds; ours, as the reference: name, TCP, proxy and TLS together
_READ_BYTES = 16384
_DEFAULT_PROXY_PORTS = {"http": 80, "https": 443}


class DialError(Ts4nsnetError):
    """No stream: the text says how far we got, with which address, and what can be done."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How to judge the server's certificate. By default: a trusted chain for the name that was dialled."""

    server_name: str = ""  # sent (SNI) and checked in place of the dialled name
    certificate_name: str = ""  # checked in place of the name that is sent
    pin: str = ""  # lower-case hex SHA-256 of the certificate (DER); then no chain is asked for
    insecure: bool = False  # no chain, no name; a pin still applies


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is never shown."""

    host: str
    port: int
    tls: bool  # spoken with the proxy itself
    authorization: str = field(default="", repr=False)


async def dial(
    host: str,
    port: int,
    *,
    tls: TlsOptions | None = None,
    addresses: Sequence[str] = (),
    timeout: float = DIAL_TIMEOUT,  # noqa: ASYNC109 - its end is an error that says what was tried
    environ: Mapping[str, str] = os.environ,
) -> trio.abc.Stream:
    """Connect to `host`.

    Args:
        host: a name or an address.
        tls: None for a plain connection.
        addresses: IP addresses to try before the name is asked for; in this order, each family by turns.
        timeout: seconds for everything.
        environ: where to look for proxies and certificates.

    Returns:
        a stream; with TLS a `trio.SSLStream` whose handshake is done.

    Raises:
        DialError: see there.
    """
    where = join_host_port(host, port)
    proxy = proxy_for(host, port, tls=tls is not None, environ=environ)
    context = tls_context(tls, environ) if tls else None
    try:
        with trio.fail_after(timeout):
            async with AsyncExitStack() as cleanup:
                if proxy is None:
                    stream: trio.abc.Stream = await _connect(host, port, addresses)
                    cleanup.push_async_callback(trio.aclose_forcefully, stream)
                else:
                    stream = await _connect(proxy.host, proxy.port, ())
                    cleanup.push_async_callback(trio.aclose_forcefully, stream)
                    stream = await _tunnel(stream, proxy, where, environ)
                if tls and context:
                    stream = await _start_tls(stream, context, tls, host, where)
                cleanup.pop_all()
                return stream
    except (
        ValueError,
        TypeError,
        h11.LocalProtocolError,
    ) as error:  # what ssl, idna and h11 say of names that are none
        raise DialError(f"{where}: not a host name that TLS or a proxy could be told: {error}") from None
    except trio.TooSlowError:
        by = f" by the proxy {join_host_port(proxy.host, proxy.port)}" if proxy else ""
        raise DialError(f"{where}: no connection{by} within {timeout:g} s; is the way there open?") from None


async def race(
    attempts: Sequence[Callable[[], Awaitable[trio.abc.Stream]]], delay: float = RACE_DELAY_TIME
) -> trio.abc.Stream | list[OSError]:
    """The first stream that `attempts` give, or all their failures.

    The next attempt starts `delay` seconds after the one before it, or at once when that fails; who loses is closed.
    """
    won: list[trio.abc.Stream] = []
    failures: list[OSError] = []

    async def run(attempt: Callable[[], Awaitable[trio.abc.Stream]], over: trio.Event) -> None:
        try:
            stream = await attempt()
        except OSError as error:
            failures.append(error)
            over.set()
            return
        if won:
            await trio.aclose_forcefully(stream)
            return
        won.append(stream)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for attempt in attempts:
            over = trio.Event()
            nursery.start_soon(run, attempt, over)
            with trio.move_on_after(delay):
                await over.wait()
    return won[0] if won else failures


def interleave(addresses: Sequence[str]) -> list[str]:
    """Addresses of both families by turns, the first one's family first (RFC 8305, 4)."""
    families: dict[int, list[str]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(ip_address(address.partition("%")[0]).version, []).append(address)
    turns = zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets for an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- TCP ------------------------------------------------------------------------------------------------------


async def _connect(host: str, port: int, addresses: Sequence[str]) -> trio.abc.Stream:
    failures: list[str] = []
    for candidates in (addresses, None):
        if candidates is None:
            candidates = await _resolve(host, port, failures)
        if not candidates:
            continue
        outcome = await race([_attempt(address, port) for address in interleave(candidates)])
        if isinstance(outcome, trio.abc.Stream):
            return outcome
        failures += map(str, outcome)
    raise DialError(f"{join_host_port(host, port)}: cannot connect: {'; '.join(failures)}")


async def _resolve(host: str, port: int, failures: list[str]) -> list[str]:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if failures:  # its known addresses have failed as well, which says more
            return []
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise DialError(
            f"{join_host_port(host, port)}: cannot find the address of {host!r}: {reason}; is the name right, does "
            "DNS work here?"
        ) from None
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _attempt(address: str, port: int) -> Callable[[], Awaitable[trio.abc.Stream]]:
    async def connect() -> trio.abc.Stream:
        try:
            return await trio.open_tcp_stream(address, port)
        except OSError as error:
            # trio says "all attempts have failed", though for an address there is but one
            causes = error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else (error,)
            why = "; ".join(getattr(cause, "strerror", None) or str(cause) for cause in causes)
            raise OSError(f"{join_host_port(address, port)}: {why}") from None

    return connect


# --- proxies --------------------------------------------------------------------------------------------------


def proxy_for(host: str, port: int, *, tls: bool, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment wants for this destination; raises `DialError` for one that we cannot use."""
    name = "HTTPS_PROXY" if tls else "HTTP_PROXY"
    url, named_by = _variable(name, environ), name
    if not url:
        url, named_by = _variable("ALL_PROXY", environ), "ALL_PROXY"
    if not url or _is_direct(host, port, _variable("NO_PROXY", environ)):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        proxy_host, proxy_port = parts.hostname, parts.port
    except ValueError:
        raise DialError(f"{named_by}: not an URL, want http://proxy:port") from None
    if parts.scheme not in _DEFAULT_PROXY_PORTS:
        if named_by == "ALL_PROXY":
            return None
        raise DialError(f"{named_by}: got a proxy of kind {parts.scheme!r}, want http or https")
    if not proxy_host:
        raise DialError(f"{named_by}: no host in it, want http://proxy:port")
    authorization = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode(errors="surrogateescape")).decode()
    return Proxy(proxy_host, proxy_port or _DEFAULT_PROXY_PORTS[parts.scheme], parts.scheme == "https", authorization)


def _variable(name: str, environ: Mapping[str, str]) -> str:
    return environ.get(name) or environ.get(name.lower()) or ""


def _is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY, or common sense, keeps this destination off the proxy."""
    host = host.lower().rstrip(".")
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in no_proxy.lower().replace(",", " ").split():
        if entry == "*":
            return True
        pattern = entry
        bare, colon, entry_port = entry.rpartition(":")
        if colon and entry_port.isdigit() and (bare.count(":") == 0 or bare.endswith("]")):
            if int(entry_port) != port:
                continue
            pattern = bare
        pattern = pattern.strip("[]")
        if address is not None:
            try:
                if address in ip_network(pattern, strict=False):
                    return True
            except ValueError:
                continue
        elif host.endswith("." + pattern.lstrip("*").lstrip(".")) or host == pattern:
            return True
    return False


async def _tunnel(stream: trio.abc.Stream, proxy: Proxy, where: str, environ: Mapping[str, str]) -> trio.abc.Stream:
    """Ask the proxy at the other end of `stream` for a way to `where`."""
    name = join_host_port(proxy.host, proxy.port)
    if proxy.tls:
        stream = await _start_tls(stream, tls_context(TlsOptions(), environ), TlsOptions(), proxy.host, name)
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", where)]
    if proxy.authorization:
        headers.append(("Proxy-Authorization", proxy.authorization))
    request = h11.Request(method="CONNECT", target=where, headers=headers)
    try:
        await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while (event := http.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        raise DialError(f"{where}: the proxy {name} does not answer CONNECT; is it an HTTP proxy?") from None
    if not isinstance(event, h11.Response) or not 200 <= event.status_code < 300:
        status = event.status_code if isinstance(event, h11.Response) else "nothing"
        hint = "; put user and password into the proxy's URL" if status == 407 else "; does it allow this port?"
        raise DialError(f"{where}: the proxy {name} refuses: got {status}, want 200{hint}")
    if http.trailing_data[0]:
        raise DialError(f"{where}: the proxy {name} says more than was asked; what is behind it speaks first")
    return stream


# --- TLS ------------------------------------------------------------------------------------------------------


def tls_context(tls: TlsOptions, environ: Mapping[str, str]) -> ssl.SSLContext:
    """What to trust; raises `DialError` if SSL_CERT_FILE is set and cannot be read."""
    context = ssl.create_default_context()
    # a trusted certificate need be no authority, as with Go; Python 3.13's default would ask for more
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    if file := environ.get("SSL_CERT_FILE"):
        try:
            context.load_verify_locations(cafile=file)
        except OSError as error:  # SSLError is one
            raise DialError(
                f"SSL_CERT_FILE={file}: {error.strerror or error}; want a file of PEM certificates"
            ) from None
    if directories := environ.get("SSL_CERT_DIR"):
        for directory in filter(None, directories.split(":")):
            context.load_verify_locations(capath=directory)
    if tls.pin or tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.certificate_name:
        context.check_hostname = False  # of the name that we send; ours is checked by hand
    return context


async def _start_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, tls: TlsOptions, host: str, where: str
) -> trio.abc.Stream:
    name = tls.server_name or host
    secure = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    try:
        await secure.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as error:
        cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {cause.verify_message}; put its authority into SSL_CERT_FILE"
        else:
            why = f"TLS failed: {getattr(cause, 'reason', None) or cause}; is it a TLS server?"
        raise DialError(f"{where}: {why}") from None
    if tls.pin or tls.certificate_name:
        check_certificate(secure.getpeercert(binary_form=True) or b"", tls, name, where)
    return secure


def check_certificate(der: bytes, tls: TlsOptions, name: str, where: str) -> None:
    """Judge a certificate by `tls.pin` or `tls.certificate_name`; raises `DialError`.

    A pin takes the chain's place; dates still count, and so does the name, unless it is an address (which no SNI has).
    """
    if tls.pin:
        found = hashlib.sha256(der).hexdigest()
        if found != tls.pin:
            raise DialError(f"{where}: its certificate has SHA-256 {found}, want {tls.pin}")
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    except ValueError as error:
        raise DialError(f"{where}: its certificate is malformed: {error}") from None
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise DialError(f"{where}: its certificate has expired, or is not valid yet")
    wanted = tls.certificate_name or name
    if tls.insecure or (tls.pin and _is_address(wanted)):
        return
    if not _matches(names, wanted):
        raise DialError(f"{where}: its certificate is not for {wanted!r}")


def _matches(names: x509.SubjectAlternativeName, wanted: str) -> bool:
    if _is_address(wanted):
        return ip_address(wanted) in names.get_values_for_type(x509.IPAddress)
    wanted = wanted.lower().rstrip(".")
    below = "*." + wanted.partition(".")[2]
    return any(name.lower() in (wanted, below) for name in names.get_values_for_type(x509.DNSName))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
