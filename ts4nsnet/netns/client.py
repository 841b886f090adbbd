# SPDX-License-Identifier: BSD-3-Clause
"""The parent's end: starts the netns child, asks it, and always gets rid of it.

Plain blocking calls with a deadline; they may be made from any thread and start none. The child dies with the *thread*
that started it, so a `NetnsChild` stays in one thread; only `give_up` may be called by another.

A child that has been idle may leave just when it is asked. It then ends with status 0 and without an answer, and the
request, which it never saw, is given to a fresh one.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from ts4nsnet.netns import wire
from ts4nsnet.netns.model import Configured, Link, NetnsError, Target, Tun, check_name, check_queues
from ts4nsnet.netns.process import LEAVE_TIME, Child, start_child

# ours: seconds; a namespace is configured in 0.2, some thousand routes take a second
REQUEST_TIME = 10.0


class NetnsChild:
    """A child inside `target`, for several requests in a row; started when the first one comes.

        with NetnsChild(Target("/run/netns/web")) as child:
            tun = child.open_tun("tap0")
            child.configure(Link("tap0", addresses=("100.64.0.7",)))

    Leaving the block ends and reaps the child. One that is idle for a second leaves by itself (and is reaped by the
    next call); a later request starts another. All methods raise `NetnsError`.
    """

    def __init__(
        self, target: Target, *, request_time: float = REQUEST_TIME, start: Callable[[Target], Child] = start_child
    ) -> None:
        """The arguments.

        Args:
            target: what the child enters.
            request_time: seconds for each request, the start of a child included.
            start: gives a child for `target`; for processes that may not start one themselves.
        """
        self._target = target
        self._request_time = request_time
        self._start_child = start
        self._running: Child | None = None
        self._given_up = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one that was not reaped."""
        return None if self._running is None else self._running.pid

    def open_tun(self, name: str, queues: int = 1) -> Tun:
        """Make the TUN `name` with `queues` queues; a TUN or TAP of that name is replaced, whoever has it open.

        It is down and has no addresses. The kernel's best: virtio_net_hdr and all offloads where it has them.

        Raises:
            NetnsError: a step failed; there is no new device and no open fd.
        """
        check_name(name)
        check_queues(queues)
        return read_tun(*self._request(ask_for_tun(name, queues)))

    def configure(self, link: Link) -> Configured:
        """Bring `lo` up and make the link as asked: adds what is missing, removes what we had added before.

        Nothing is touched that is as asked already, nor what others have added; open fds of the TUN never are.
        The link is up before its routes come; a route that changes is replaced, never absent.

        Raises:
            NetnsError: a step failed; what came before it stays. Asking again goes on from there.
        """
        reply, _ = self._request(ask_to_configure(link))
        return Configured(reply["changes"], tuple(reply["skipped"]))

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """A non-blocking socket of the target's network namespace, with which it stays wherever the socket is used.

        Args:
            family, kind: as of `socket.socket`.

        Raises:
            NetnsError: the kernel has none of that kind there.
        """
        _, fds = self._request({"do": "open_socket", "family": int(family), "kind": int(kind)})
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        return sock

    def give_up(self) -> None:
        """End the request under way, which raises `NetnsError` at once, and refuse all later ones; from any thread."""
        self._given_up = True
        running = self._running
        if running is not None:
            with suppress(OSError):  # closed just now
                running.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the child and reap it, within `LEAVE_TIME`; nothing where there is none."""
        if self._running is not None:
            running, self._running = self._running, None
            running.end(LEAVE_TIME)

    def _request(self, message: wire.Message) -> tuple[wire.Message, list[int]]:
        give_up_at = time.monotonic() + self._request_time
        received, tries = None, 0
        while received is None:
            had_one, running = self._running is not None, self._start()
            tries += 1
            try:
                received = self._exchange(running, message, give_up_at)
            except BaseException:
                self._running = None
                running.end(0)
                raise
            if received is None:
                self._running = None
                status, words = running.end(LEAVE_TIME)
                # one that was handed to us may have been idle for as long as our own
                was_idle = tries == 1 and (had_one or status is None)
                if status or words or not was_idle:
                    raise self._error("waiting for the netns child", f"it ended with status {status}: {words or '-'}")
        reply, fds = received
        if "error" in reply:
            raise NetnsError(*reply["error"])
        return reply, fds

    def _exchange(
        self, running: Child, message: wire.Message, give_up_at: float
    ) -> tuple[wire.Message, list[int]] | None:
        """One request and its answer; None when the child has gone."""
        received = None
        try:
            if not self._given_up:
                wire.send(running.sock, message, (), give_up_at)
                received = wire.receive(running.sock, give_up_at)
        except TimeoutError:
            raise self._error("waiting for the netns child", f"no answer in {self._request_time} s") from None
        except wire.FdsLost:
            reason = "this process has too many open files"
            raise self._error("receiving file descriptors", reason, "raise ulimit -n") from None
        except (BrokenPipeError, ConnectionResetError):
            pass
        if received is None and self._given_up:
            raise self._error("waiting for the netns child", "the request was given up", "ask another one")
        return received

    def _start(self) -> Child:
        """The running child; a new one where there is none."""
        if self._running is None:
            self._running = self._start_child(self._target)
        return self._running

    def _error(self, step: str, reason: str, advice: str = "please report this with the words above") -> NetnsError:
        return NetnsError(step, str(self._target), reason, advice)


def open_tun(target: Target, name: str, queues: int = 1, *, request_time: float = REQUEST_TIME) -> Tun:
    """`NetnsChild.open_tun` by a child for this request alone."""
    with NetnsChild(target, request_time=request_time) as child:
        return child.open_tun(name, queues)


def configure(target: Target, link: Link, *, request_time: float = REQUEST_TIME) -> Configured:
    """`NetnsChild.configure` by a child for this request alone."""
    with NetnsChild(target, request_time=request_time) as child:
        return child.configure(link)


def open_socket(target: Target, family: int, kind: int, *, request_time: float = REQUEST_TIME) -> socket.socket:
    """`NetnsChild.open_socket` by a child for this request alone."""
    with NetnsChild(target, request_time=request_time) as child:
        return child.open_socket(family, kind)


def ask_for_tun(name: str, queues: int = 1) -> wire.Message:
    """The request of `NetnsChild.open_tun`, which `read_tun` reads the answer to; `NetnsError` for values of no use."""
    check_name(name)
    check_queues(queues)
    return {"do": "open_tun", "name": name, "queues": queues}


def ask_to_configure(link: Link) -> wire.Message:
    """The request of `NetnsChild.configure`."""
    return {"do": "configure", "link": link.to_message()}


def read_tun(reply: wire.Message, fds: list[int]) -> Tun:
    """The TUN that a child's answer, which is no error, brings."""
    return Tun(reply["name"], tuple(fds), reply["vnet_hdr"], reply["offload"])
