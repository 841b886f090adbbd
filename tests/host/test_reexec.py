# SPDX-License-Identifier: BSD-3-Clause
"""What tests/namespaces.py promises, seen from outside: pytest is replaced, behaves as before, leaves nothing behind.

Most tests here start a pytest on a generated file. Its test leaves a background process in a session of its own, in
a second network namespace with an interface in it, as a crashed test might; then that pytest is ended in some way.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests import namespaces

ROOT = namespaces.TESTS.parent
TIME_LIMIT = 20.0  # seconds

# other plugins take a second to load, and the generated tests need none
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
CONFTEST = """
from tests import namespaces

def pytest_cmdline_main(config):
    namespaces.enter(config)
"""
GENERATED = """
import os, signal, socket, subprocess

def test_where():
    assert os.getpid() == 1
    assert os.getuid() == 0
    assert socket.if_nameindex() == [(1, "lo")]
    assert os.listdir("/run") == []
    socket.create_server(("127.0.0.1", 0)).close()  # works only where lo is up

def test_failing():
    print("something to show")
    assert not "a failure"

def test_hanging():
    subprocess.run(["ip", "netns", "add", "left"], check=True)
    subprocess.run(["ip", "link", "add", "name", "left0", "type", "veth", "peer", "name", "left1"], check=True)
    left = subprocess.Popen(["ip", "netns", "exec", "left", "sh", "-c", "echo; exec sleep 1000"],
                            stdout=subprocess.PIPE, start_new_session=True)
    left.stdout.readline()
    print("ready", os.readlink("/proc/self/ns/pid"), flush=True)
    signal.pause()
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Ours without what would change an outcome."""
    kept = {name: value for name, value in os.environ.items() if name not in (namespaces.MARKER, "CI")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def pytest_in(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    print(done.stdout)  # for the report of a failure
    return done


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """A folder with tests; a pytest in it enters namespaces."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_generated.py").write_text(GENERATED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def test_inside_is_root_with_nothing_around_it(generated: Path) -> None:
    assert pytest_in(generated, "-k", "where", **BARE).returncode == pytest.ExitCode.OK


def test_marker_left_in_a_shell_does_not_count_as_inside(generated: Path) -> None:
    stale = {namespaces.MARKER: os.readlink("/proc/self/ns/user")}
    assert pytest_in(generated, "-k", "where", **BARE, **stale).returncode == pytest.ExitCode.OK


def test_output_exit_code_and_arguments_are_those_of_pytest(generated: Path) -> None:
    names = ("test_generated.py::test_failing", "test_generated.py::test_where")
    done = pytest_in(generated, *names, "-x", "-k", "fail", **BARE)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "something to show" in done.stdout
    assert "= 1 failed, 1 deselected in" in done.stdout
    assert done.stdout.count("test session starts") == 1


def interrupt(pytest_: subprocess.Popen[str]) -> None:
    os.killpg(pytest_.pid, signal.SIGINT)  # as a terminal does


def terminate(pytest_: subprocess.Popen[str]) -> None:
    os.killpg(pytest_.pid, signal.SIGTERM)  # as timeout(1) does


def kill(pytest_: subprocess.Popen[str]) -> None:
    pytest_.kill()  # only what was started: `unshare` since the pytest there was replaced


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [(interrupt, pytest.ExitCode.INTERRUPTED), (terminate, pytest.ExitCode.INTERRUPTED), (kill, -signal.SIGKILL)],
)
def test_nothing_remains(generated: Path, end: Callable[[subprocess.Popen[str]], None], exit_code: int) -> None:
    interfaces = socket.if_nameindex()
    with subprocess.Popen(
        command("-s", "-k", "hanging"),
        cwd=generated,
        env=environment(**BARE),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as pytest_:
        try:
            assert pytest_.stdout is not None
            pid_namespace = ready(pytest_.stdout)
            inside = processes_in(pid_namespace)
            assert len(inside) == 2  # pytest and what its test left
            end(pytest_)
            assert pytest_.wait(TIME_LIMIT) == exit_code
            for pidfd in inside:  # with the last of them go the namespaces and what is in them
                assert select.select([pidfd], [], [], TIME_LIMIT)[0], "it still runs"
                os.close(pidfd)
        finally:
            pytest_.kill()
    assert socket.if_nameindex() == interfaces


def ready(stdout: IO[str]) -> str:
    """Wait for the generated test; returns its pid namespace."""
    lines = []
    for line in stdout:
        lines.append(line)
        if "ready " in line:
            return line.split()[-1]
    raise AssertionError("".join(lines))


def processes_in(pid_namespace: str) -> list[int]:
    """A pidfd for each process there."""
    return [os.pidfd_open(pid) for pid, namespace in pid_namespaces() if namespace == pid_namespace]


def pid_namespaces() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                yield int(entry.name), os.readlink(entry / "ns/pid")
            except OSError:
                continue  # it ended, or belongs to someone else


SYSTEM_TEST = "tests/system/test_topology.py"
HOST_TEST = "tests/host/test_reexec.py"


def test_mixture_is_refused() -> None:
    done = pytest_in(ROOT, SYSTEM_TEST, HOST_TEST, "-p", "no:cacheprovider")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "use `make test`" in done.stdout


def test_mixture_may_be_listed() -> None:
    done = pytest_in(ROOT, SYSTEM_TEST, HOST_TEST, "--collect-only", "-q", "-p", "no:cacheprovider")
    assert done.returncode == pytest.ExitCode.OK


def test_mixture_enters_when_only_such_tests_are_left() -> None:
    done = pytest_in(ROOT, SYSTEM_TEST, HOST_TEST, "-k", "code_enters_a_host", "-p", "no:cacheprovider")
    assert done.returncode == pytest.ExitCode.OK
    assert "1 passed" in done.stdout


@pytest.fixture
def no_namespaces(tmp_path: Path) -> str:
    """A PATH whose `unshare` is refused."""
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2; exit 1\n")
    unshare.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_without_namespaces_tests_are_skipped_with_the_reason(no_namespaces: str) -> None:
    done = pytest_in(ROOT, SYSTEM_TEST, "-k", "code_enters", "-p", "no:cacheprovider", PATH=no_namespaces)
    assert done.returncode == pytest.ExitCode.OK
    assert "1 skipped" in done.stdout
    assert "Operation not permitted; run .ci/prepare as root" in done.stdout


def test_without_namespaces_continuous_integration_fails(no_namespaces: str) -> None:
    done = pytest_in(ROOT, SYSTEM_TEST, "-k", "code_enters", "-p", "no:cacheprovider", PATH=no_namespaces, CI="true")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Operation not permitted; run .ci/prepare as root" in done.stdout


def test_a_skip_in_continuous_integration_is_a_failure() -> None:
    done = pytest_in(ROOT, "tests/host/skipped.py", "-p", "no:cacheprovider", CI="true")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "skipped, which in CI is a failure" in done.stdout
    done = pytest_in(ROOT, "tests/host/skipped.py", "-p", "no:cacheprovider", CI="")
    assert done.returncode == pytest.ExitCode.OK
