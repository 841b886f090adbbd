# SPDX-License-Identifier: BSD-3-Clause
"""The real slirp4netns as the oracle: the same command line has the same reason and the same exit code."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# without a namespace to join, all of them end with an error
MISTAKES = [
    "--m=1", "--en", "--foo", "--foo=1", "--configure=1", "--conf=", "--=3", "-e", "--exit-fd", "-x", "-cx", "-=",
    "-c6e", "-e x", "-e -1", "-e 3x", "-r 0x3", "--mtu 0", "--mtu=65522", "--mtu=", "-m-1", "-m 9x",
    "--netns-type=foo /no/such tap0", "--netns-type=path /no/such tap0", "--userns-path=/no/such", "x tap0",
    "0x10 tap0", "-- -1 tap0", "tap0 x", "--macaddress=aa 1 tap0", "-c --macaddress=a:b:c:d:e:f:7 1 tap0",
    "-c --macaddress=zz 1 tap0", "--cidr=10.0.2.0 1 tap0", "--cidr=1000.0.2.0/24 1 tap0", "--cidr= 1 tap0",
    "--cidr=999.0.2.0/24 1 tap0", "--cidr=10.0.2.0/26 1 tap0", "--cidr=10.0.2.100/24 1 tap0", "--cidr=1.2.3.4/0 1 x",
    "--outbound-addr=no-such 1 tap0", "--target-type=x 1 tap0", "--help=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def slirp4netns() -> str:
    """The real one."""
    found = shutil.which("slirp4netns")
    if found is None:
        pytest.skip("slirp4netns is not installed: apt-get install slirp4netns")
    return found


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our script by a name that leaves no doubt whose face is meant."""
    link = tmp_path_factory.mktemp("bin") / "slirp4netns"
    link.symlink_to(Path(sys.executable).with_name("ts4nsnet"))
    return link


def outcome(program: str | Path, line: str) -> tuple[int, str, bool]:
    """Exit code, the reason without the program's name, and whether the usage followed."""
    command = [program, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stderr.removeprefix(f"{program}: ").rstrip(), "Usage: " in done.stdout


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(ours: Path, slirp4netns: str, line: str) -> None:
    assert outcome(ours, line) == outcome(slirp4netns, line)


@pytest.mark.parametrize("line", ["", "1", "-c", "--", "--ready-fd="])
def test_what_is_missing_is_said_where_the_original_only_shows_its_usage(
    ours: Path, slirp4netns: str, line: str
) -> None:
    assert outcome(slirp4netns, line) == (1, "", True)
    exit_code, reason, with_usage = outcome(ours, line)
    assert (exit_code, with_usage) == (1, True)
    assert reason.endswith("want a PID or PATH, and a TAPNAME")


@pytest.mark.parametrize("line", ["-h", "--help", "--vers", "-v", "-c --help --foo", "-hx"])
def test_what_is_no_mistake(ours: Path, slirp4netns: str, line: str) -> None:
    assert outcome(ours, line) == outcome(slirp4netns, line)


def options(program: str | Path) -> set[str]:
    """The words that start with hyphens in the first column of the help: `-e,`, `--exit-fd=FD`."""
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=20, check=True)
    columns = (line[:25] for line in done.stdout.splitlines() if line.startswith("-"))
    return {word for column in columns for word in column.split() if word.startswith("-")}


def test_every_option_of_the_original_is_in_our_help(ours: Path, slirp4netns: str) -> None:
    assert options(slirp4netns) <= options(ours)
