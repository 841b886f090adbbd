# SPDX-License-Identifier: BSD-3-Clause
"""Which face argv picks; `--version` and `--help`, which a container tool asks for before every start."""

import subprocess
import sys
from pathlib import Path

import pytest

import ts4nsnet
from ts4nsnet.cli.main import COMMANDS, main

SCRIPT = Path(sys.executable).with_name("ts4nsnet")


def run(program: Path, *words: str, folder: Path = Path()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def slirp4netns(tmp_path: Path) -> Path:
    """A link to our script, as a user may have it in PATH."""
    link = tmp_path / "slirp4netns"
    link.symlink_to(SCRIPT)
    return link


def test_version_from_any_folder(tmp_path: Path) -> None:
    done = run(SCRIPT, "--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"ts4nsnet {ts4nsnet.__version__}\n")


def test_help_is_shown_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "--version" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_has_the_commands_and_all_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in COMMANDS)
    assert "--enable-ipv6" in out
    assert "--netns-type" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = run(SCRIPT, name, "--help")
    assert done.returncode == 0
    assert done.stdout.lower().startswith(f"usage: ts4nsnet {name}")


def test_a_word_that_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stauts"]) == 2
    assert "no command 'stauts', want one of run, status" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["12"], ["-c"], ["/run/netns/x", "--mtu=1"], ["--", "tap0"]])
def test_anything_else_is_for_slirp4netns(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert "Usage: " in capsys.readouterr().out


def test_a_link_called_slirp4netns_is_nothing_else(slirp4netns: Path) -> None:
    assert run(slirp4netns, "--version").stdout.startswith("slirp4netns version 1.3")
    done = run(slirp4netns, "status", "tap0")
    assert (done.returncode, done.stderr) == (1, "PID must be a positive integer\n")
    done = run(slirp4netns)
    assert (done.returncode, done.stdout.startswith("Usage: ")) == (1, True)
    assert run(slirp4netns, "--help").returncode == 0


@pytest.mark.parametrize("word", ["--version", "--help"])
@pytest.mark.parametrize("program", ["ts4nsnet", "slirp4netns"])
def test_version_imports_nothing_but_the_standard_library(program: str, word: str) -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); from ts4nsnet.cli.main import main\n"
        f"sys.argv = ['/bin/{program}', '{word}']; main()\n"
        "foreign = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "ours = {name for name in sys.modules if name.startswith('ts4nsnet.')}\n"
        "ours = {name for name in ours if not name.startswith('ts4nsnet.cli')}\n"
        "slow = {'argparse', 'asyncio', 'email', 'http', 'ssl', 'subprocess'} & set(sys.modules)\n"
        "sys.exit(str(sorted(foreign - {'ts4nsnet', '__main__'} | ours - {'ts4nsnet.errors'} | slow)))"
    )
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.strip() == "[]"
