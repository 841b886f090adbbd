# SPDX-License-Identifier: BSD-3-Clause
"""The node's end of the socket to its keeper; the test is the keeper, and the netns children that it hands over."""

import mmap
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from ts4nsnet.keeper import messages
from ts4nsnet.netns import Configured, Link, NetnsError, Target, wire
from ts4nsnet.node.kept import KeeperSurroundings
from ts4nsnet.node.surroundings import OwnSurroundings, WorkerError, WorkerLink

TIME_LIMIT = 10.0
LINK = Link("tap0")
Pair = tuple[socket.socket, socket.socket]


class FakeKeeper:
    """A keeper that hears the node, and says what the test has it say."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stops = 0

    async def hear(self) -> dict[str, Any]:
        """The node's next message."""
        message = await trio.to_thread.run_sync(messages.receive, self.sock)
        assert message is not None
        return message

    def say(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        messages.send(self.sock, message, fds)

    async def hand_over_a_child(self) -> socket.socket:
        """Answer the request for one; our end of its socket."""
        request = await self.hear()
        assert request["do"] == "netns"
        ours, theirs = socket.socketpair()
        stderr = os.memfd_create("stderr")
        with theirs:
            self.say({"id": request["id"]}, (theirs.fileno(), stderr))
        os.close(stderr)
        return ours

    async def link(self, node: KeeperSurroundings, nursery: trio.Nursery) -> tuple[WorkerLink, int]:
        """Have the node ask for a worker; its link, and the fd of its counters."""
        asked = await in_background(nursery, partial(node.worker, "auto"))
        request = await self.hear()
        counters = os.memfd_create("counters")
        os.ftruncate(counters, 4096)
        self.say({"id": request["id"]}, (counters,))
        assert request["do"] == "counters"
        assert await self.hear() == {"do": "worker", "engine": "auto"}
        link: WorkerLink = await asked.receive()
        return link, counters

    def say_worker(self) -> socket.socket:
        """Tell the node of a worker; the worker's end of their socket."""
        worker, node = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with node:
            self.say({"do": "worker"}, (node.fileno(),))
        return worker

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(TIME_LIMIT)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@asynccontextmanager
async def kept(pair: Pair) -> AsyncIterator[tuple[FakeKeeper, KeeperSurroundings, trio.Nursery]]:
    keeper, node = FakeKeeper(pair[0]), KeeperSurroundings(pair[1])
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.listen, keeper.stop)
            yield keeper, node, nursery
            nursery.cancel_scope.cancel()
        node.close()


async def in_background(nursery: trio.Nursery, call: Any) -> trio.MemoryReceiveChannel[Any]:
    """Start a request; its result, or its `NetnsError`, comes from the channel."""
    send, receive = trio.open_memory_channel[Any](1)

    async def run() -> None:
        try:
            result = await call()
        except NetnsError as error:
            result = error
        await send.send(result)

    nursery.start_soon(run)
    return receive


async def test_answers_find_their_questions(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        tun = await in_background(nursery, node.open_tun)
        first = await keeper.hear()
        udp = await in_background(nursery, node.udp_socket)
        second = await keeper.hear()
        assert (first["do"], second["do"]) == ("tun", "udp")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            keeper.say({"id": second["id"]}, (sock.fileno(),))
        with await udp.receive() as got:
            assert (got.family, got.type, got.getblocking()) == (socket.AF_INET, socket.SOCK_DGRAM, False)
        keeper.say({"id": first["id"], "name": "tap7", "vnet_hdr": True, "offload": 103}, (0,))
        opened = await tun.receive()
        assert (opened.name, opened.vnet_hdr, opened.offload, len(opened.fds)) == ("tap7", True, 103, 1)
        opened.close()


async def test_memory_is_shared_with_the_keeper(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        asked = await in_background(nursery, partial(node.session_memory, 4096))
        request = await keeper.hear()
        assert request["size"] == 4096
        fd = os.memfd_create("sessions")
        os.ftruncate(fd, 4096)
        keeper.say({"id": request["id"]}, (fd,))
        with await asked.receive() as memory, mmap.mmap(fd, 4096) as ours:
            memory[7] = 77
            assert ours[7] == 77
        os.close(fd)


async def test_an_error_of_the_keepers_is_the_callers(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        asked = await in_background(nursery, node.open_tun)
        request = await keeper.hear()
        keeper.say({"id": request["id"], "error": ["making the TUN", "process 7", "no", "do better"]})
        error = await asked.receive()
        assert str(error) == "making the TUN (process 7): no; do better"


async def test_fds_that_got_lost_are_an_error(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        asked = await in_background(nursery, node.udp_socket)
        request = await keeper.hear()
        keeper.say({"id": request["id"]})
        assert (await asked.receive()).advice == "raise ulimit -n"


async def test_stop_and_the_keepers_end_stop_the_node(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, _):
        keeper.say({"do": "stop"})
        while keeper.stops < 1:
            await trio.testing.wait_all_tasks_blocked()
        was_gone = node.is_gone
        keeper.sock.close()
        while keeper.stops < 2:
            await trio.testing.wait_all_tasks_blocked()
        assert (was_gone, node.is_gone) == (False, True)
        await node.tell({"do": "ready"})  # nobody is there, which is no error


async def test_at_the_keepers_end_what_is_asked_fails_at_once(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        asked = await in_background(nursery, node.open_tun)
        await keeper.hear()
        keeper.sock.close()
        assert (await asked.receive()).reason == "it has ended"
        with pytest.raises(NetnsError, match="it has ended"):
            await node.udp_socket()


async def test_an_answer_that_comes_too_late_leaves_no_fds(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_after_hearing, keeper, scope)
            await node.udp_socket()
        before = sorted(os.listdir("/proc/self/fd"))
        keeper.say({"id": 1}, (0, 0))
        keeper.say({"do": "stop"})
        while not keeper.stops:
            await trio.testing.wait_all_tasks_blocked()
        assert sorted(os.listdir("/proc/self/fd")) == before


async def cancel_after_hearing(keeper: FakeKeeper, scope: trio.CancelScope) -> None:
    await keeper.hear()
    scope.cancel()


# --- netns children ---------------------------------------------------------------------------------------------------


async def heard(child: socket.socket) -> dict[str, Any]:
    """What a child is asked."""
    received = await trio.to_thread.run_sync(wire.receive, child, time.monotonic() + TIME_LIMIT)
    assert received is not None
    return received[0]


def answer(child: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    wire.send(child, message, fds, time.monotonic() + TIME_LIMIT)


async def test_a_child_serves_many_requests(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        asked = await in_background(nursery, partial(node.configure, LINK))
        with await keeper.hand_over_a_child() as child:
            assert Link.from_message((await heard(child))["link"]) == LINK
            answer(child, {"changes": 3, "skipped": ["::/0"]})
            assert await asked.receive() == Configured(3, ("::/0",))
            asked = await in_background(nursery, partial(node.container_socket, socket.AF_INET, socket.SOCK_DGRAM))
            assert await heard(child) == {"do": "open_socket", "family": 2, "kind": 2}
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                answer(child, {}, (sock.fileno(),))
            (await asked.receive()).close()


async def test_requests_take_turns(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        first = await in_background(nursery, partial(node.configure, LINK))
        with await keeper.hand_over_a_child() as child:
            await heard(child)
            second = await in_background(nursery, partial(node.configure, LINK))
            await trio.testing.wait_all_tasks_blocked()
            answer(child, {"changes": 1, "skipped": []})
            assert (await first.receive()).changes == 1
            await heard(child)
            answer(child, {"changes": 2, "skipped": []})
            assert (await second.receive()).changes == 2


async def test_a_child_that_was_idle_too_long_is_replaced(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        asked = await in_background(nursery, partial(node.configure, LINK))
        (await keeper.hand_over_a_child()).close()
        with await keeper.hand_over_a_child() as child:
            await heard(child)
            answer(child, {"changes": 1, "skipped": []})
            assert await asked.receive() == Configured(1)


async def test_children_that_all_end_are_an_error(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        asked = await in_background(nursery, partial(node.configure, LINK))
        (await keeper.hand_over_a_child()).close()
        (await keeper.hand_over_a_child()).close()
        assert (await asked.receive()).step == "waiting for the netns child"


async def test_a_request_that_is_cancelled_is_given_up_at_once_and_the_next_has_a_child_of_its_own(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        children: list[socket.socket] = []

        async def cancel_once_asked(scope: trio.CancelScope) -> None:
            children.append(await keeper.hand_over_a_child())
            await heard(children[0])
            scope.cancel()

        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_once_asked, scope)
            await node.configure(LINK)
        assert scope.cancelled_caught
        with children[0] as given_up:
            assert await trio.to_thread.run_sync(wire.receive, given_up, time.monotonic() + TIME_LIMIT) is None
        asked = await in_background(nursery, partial(node.configure, LINK))
        with await keeper.hand_over_a_child() as child:
            await heard(child)
            answer(child, {"changes": 1, "skipped": []})
            assert await asked.receive() == Configured(1)


async def test_told_messages_arrive_as_they_are(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, _):
        await node.tell({"do": "failed", "text": "the key is spent"})
        assert await keeper.hear() == {"do": "failed", "text": "the key is spent"}


# --- workers ----------------------------------------------------------------------------------------------------------


async def test_a_link_gives_each_workers_socket_and_waits_for_the_next(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        link, counters = await keeper.link(node, nursery)
        for number in range(2):
            taken = await in_background(nursery, link.connection)
            await trio.testing.wait_all_tasks_blocked()
            with keeper.say_worker() as worker, await taken.receive() as sock:
                assert (sock.type, sock.getblocking()) == (socket.SOCK_SEQPACKET, False)
                worker.send(b"%d" % number)
                assert sock.recv(10) == b"%d" % number
        os.pwrite(counters, b"7", 8)
        assert link.counters[8:9] == b"7"
        os.close(counters)


async def test_of_sockets_that_nobody_took_the_newest_is_left(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        link, counters = await keeper.link(node, nursery)
        os.close(counters)
        workers = [keeper.say_worker() for _ in range(3)]
        await heard_all(keeper)
        workers[2].send(b"newest")
        assert [worker.recv(1) for worker in workers[:2]] == [b"", b""]
        with await link.connection() as sock:
            assert sock.recv(10) == b"newest"
        for worker in workers:
            worker.close()


async def test_what_keeps_a_worker_from_coming(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        link, counters = await keeper.link(node, nursery)
        os.close(counters)
        assert link.trouble == ""
        keeper.say({"do": "worker", "trouble": "killed"})
        await heard_all(keeper)
        assert link.trouble == "killed"
        with keeper.say_worker(), await link.connection():
            assert link.trouble == ""


async def test_there_will_be_no_worker(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        link, counters = await keeper.link(node, nursery)
        os.close(counters)
        keeper.say({"do": "worker", "error": "no engine works here"})
        for _ in range(2):
            with pytest.raises(WorkerError, match="no engine works here"):
                await link.connection()


async def test_a_worker_of_the_node_before_this_one_leaves_no_fds(pair: Pair) -> None:
    async with kept(pair) as (keeper, _, _):
        before = sorted(os.listdir("/proc/self/fd"))
        keeper.say_worker().close()
        await heard_all(keeper)
        assert sorted(os.listdir("/proc/self/fd")) == before


async def test_a_socket_that_is_not_taken_is_closed_with_the_keepers(pair: Pair) -> None:
    async with kept(pair) as (keeper, node, nursery):
        _, counters = await keeper.link(node, nursery)
        os.close(counters)
        worker = keeper.say_worker()
        await heard_all(keeper)
    with worker:
        assert worker.recv(1) == b""


async def test_without_a_keeper_there_are_no_workers() -> None:
    assert await OwnSurroundings(Target(1), "tap0").worker("auto") is None


async def heard_all(keeper: FakeKeeper) -> None:
    """Wait until the node has heard what was said."""
    stops = keeper.stops
    keeper.say({"do": "stop"})
    while keeper.stops == stops:
        await trio.testing.wait_all_tasks_blocked()
