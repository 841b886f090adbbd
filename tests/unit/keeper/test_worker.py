# SPDX-License-Identifier: BSD-3-Clause
"""Workers that cannot be started, nodes that do not listen; what a worker gets is in tests/system/test_keeper.py."""

import socket
import sys
import time
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

import pytest

from tests.unit.keeper.loop import Loop
from ts4nsnet.keeper.messages import Message
from ts4nsnet.keeper.process import Ends
from ts4nsnet.keeper.worker import COUNTERS_BYTES, MANY_ENDS, PAUSE, Gear, Worker

# their fds only have to be inheritable
GEAR = Gear(tun=0, udp=1, memory=2, vnet_hdr=True, engine="auto")


class Node:
    """What a worker's node is told, and what its log says; it may be stopped, and not be told anything."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.stopped = False
        self.told: list[Message] = []
        self.log: list[str] = []
        self.worker = Worker("some_worker", folder, self.loop.watch, self.log.append, self.tell)

    def tell(self, message: Message, fds: Sequence[int]) -> bool:
        assert len(fds) == (message == {"do": "worker"})
        if not self.stopped:
            self.told.append(message)
        return not self.stopped


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """One whose worker's module is missing."""
    made = Node(tmp_path)
    yield made
    made.worker.close()


@pytest.fixture
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one; it does nothing."""
    (tmp_path / "some_worker.py").write_text("import signal\nmain = signal.pause\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_before_one_is_asked_for_there_is_none(node: Node) -> None:
    node.worker.serve_again()
    assert (node.worker.due, node.told, node.log, node.loop.watched) == (inf, [], [], {})


def test_what_cannot_be_started_is_tried_again_later(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    began = time.monotonic()
    node.worker.serve(GEAR)
    how = "starting the worker: No such file or directory"
    assert node.log == [f"{how}; there is another at once"] * (MANY_ENDS - 1) + [f"{how}; there is another in 1 s"]
    assert node.told == [{"do": "worker", "trouble": how}]
    assert began + PAUSE <= node.worker.due <= time.monotonic() + PAUSE
    assert node.loop.watched == {}
    node.worker.close()
    assert node.worker.due == inf


def test_without_sockets_it_is_tried_again_later(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    node.worker.serve(GEAR)
    assert node.told == [{"do": "worker", "trouble": "starting the worker: Too many open files"}]


def test_one_whose_module_is_missing_is_not_started_again(node: Node, tmp_path: Path) -> None:
    node.worker.serve(GEAR)
    node.loop.run()  # until it has ended
    how = "the worker ended with status 2, saying: ModuleNotFoundError: No module named 'some_worker'"
    assert node.log == [how]
    assert node.told == [{"do": "worker"}, {"do": "worker", "error": how}]
    assert node.worker.due == inf
    assert (tmp_path / "log").read_text().startswith("Traceback")


@pytest.mark.usefixtures("_module")
def test_other_gear_is_for_another_worker(node: Node) -> None:
    node.worker.serve(GEAR)
    before = set(node.loop.watched.values())
    node.worker.serve(Gear(0, 1, 2, vnet_hdr=False, engine="auto"))
    assert before.isdisjoint(node.loop.watched.values())
    assert len(node.loop.watched) == 1
    assert node.told == [{"do": "worker"}] * 2
    assert node.log == []


@pytest.mark.usefixtures("_module")
def test_the_same_gear_is_for_the_same_worker(node: Node) -> None:
    node.worker.serve(GEAR)
    before = dict(node.loop.watched)
    node.worker.serve(GEAR)
    assert node.loop.watched == before
    assert node.told == [{"do": "worker"}] * 2


@pytest.mark.usefixtures("_module")
def test_a_node_that_is_stopped_hears_of_its_worker_later(node: Node) -> None:
    node.stopped = True
    node.worker.serve(GEAR)
    before = dict(node.loop.watched)
    assert node.worker.due <= time.monotonic() + PAUSE
    node.stopped = False
    node.worker.serve_again()
    assert node.loop.watched == before
    assert (node.told, node.worker.due) == ([{"do": "worker"}], inf)


def test_a_node_that_is_stopped_hears_later_that_there_will_be_no_worker(node: Node) -> None:
    node.worker.serve(GEAR)
    node.stopped = True
    node.loop.run()
    assert node.worker.due <= time.monotonic() + PAUSE
    node.stopped = False
    node.worker.serve_again()
    node.loop.run()
    assert [message.get("error", "") for message in node.told] == ["", "", node.log[0]]


@pytest.mark.usefixtures("_module")
def test_a_worker_that_does_not_read_is_tried_later(node: Node) -> None:
    node.worker.serve(GEAR)
    while node.worker.due == inf:  # ends when its socket is full
        node.worker.serve(GEAR)
    assert node.worker.due <= time.monotonic() + PAUSE
    told = len(node.told)
    node.worker.serve_again()
    assert len(node.told) == told


def test_the_counters_are_one_page(node: Node) -> None:
    with open(node.worker.counters, "rb") as file:
        assert file.read() == bytes(COUNTERS_BYTES)


@pytest.mark.parametrize(
    ("times", "too_many"),
    [
        ([0.0], [False]),
        ([0.0, 0.0, 0.0], [False, False, True]),
        ([0.0, 5.0, 9.9], [False, False, True]),
        ([0.0, 5.0, 10.0], [False, False, False]),
        ([0.0, 5.0, 10.0, 12.0, 30.0, 31.0, 32.0], [False, False, False, True, False, False, True]),
    ],
)
def test_ends_are_too_many(times: list[float], too_many: list[bool]) -> None:
    ends = Ends(3, 10.0)
    assert [ends.are_too_many(now) for now in times] == too_many
