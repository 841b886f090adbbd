# SPDX-License-Identifier: BSD-3-Clause
"""Restarts as podman up to 4.7 makes them: nothing tells who we are but the name of the log behind standard output."""

import json
import signal

from tests.system.machine import Machine, Started
from tests.topology import Container
from ts4nsnet.node.statefile import runtime_folder

# a file of that name is standard output, and has no name any more when we start
LOGGED = ("sh", "-c", 'exec >"$0" 2>&1; rm "$0"; exec "$@"')
# what podman leaves of the environment
BARE = ("env", "-u", "TS_AUTHKEY", "-u", "TS_HOSTNAME", "-u", "TS_CONTROL_URL", "-u", "SSL_CERT_FILE")


def start(machine: Machine, box: Container, *before: str) -> Started:
    log = machine.folder / f"slirp4netns-{box.name}.log"
    wrapper = (*LOGGED, str(log), *before)
    return machine.start(box, "-c", "--netns-type=path", box.netns, "tap0", wrapper=wrapper)


def settings_files(machine: Machine) -> list[str]:
    folder = runtime_folder({"XDG_RUNTIME_DIR": str(machine.folder)})
    return [path.name for path in folder.glob("*.settings")]


def test_a_killed_node_comes_back_without_its_environment(machine: Machine) -> None:
    box = machine.container("killed")
    first = start(machine, box)
    first.wait_until_ready()
    before = first.addresses()
    about = json.loads((first.folder / "about.json").read_text())
    first.process.send_signal(signal.SIGSTOP)  # so that it cannot tell its node to leave in good order
    for pid in (about["node_pid"], about["keeper_pid"]):
        machine.host.run("kill", "-KILL", str(pid))
    first.process.wait()
    second = start(machine, box, *BARE)
    second.wait_until_ready()
    assert second.addresses() == before
    second.leave()


def test_a_restart_takes_over_from_a_node_that_leaves(machine: Machine) -> None:
    box = machine.container("again")
    first = start(machine, box)
    first.wait_until_ready()
    before = first.addresses()
    first.close()  # exit-fd; podman's next start follows at once
    second = start(machine, box, *BARE)
    second.wait_until_ready()
    assert first.process.wait() == 0
    assert second.addresses() == before
    assert second.leave() == 0


def test_an_orderly_end_leaves_no_settings(machine: Machine) -> None:
    files = settings_files(machine)
    box = machine.container("ended")
    started = start(machine, box)
    started.wait_until_ready()
    assert len(settings_files(machine)) == len(files) + 1
    assert started.leave() == 0
    assert settings_files(machine) == files


def test_nothing_is_known_of_another_container(machine: Machine) -> None:
    box = machine.container("unknown")
    started = start(machine, box, *BARE)
    assert started.process.wait() == 1
    assert started.was_never_ready()
