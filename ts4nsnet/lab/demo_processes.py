# SPDX-License-Identifier: BSD-3-Clause
"""How the demo runs other programs: each in a session of its own, bounded in time, its output read as JSON lines.

A session of its own, since a Ctrl-C is for the demo alone, which then ends the others in order. The variables that
steer ts4nsnet are taken out of the environment: the demo sets its own.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ts4nsnet.lab.errors import LabError

COMMAND_TIME = 120.0  # seconds; ours, for 100 MB on a slow machine
END_TIME = 5.0


def spawn(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
    inherit: bool = True,
) -> subprocess.Popen[str]:
    """Start a program in the root folder, with pipes for its standard streams; `inherit`: on top of our environment."""
    kept = {name: value for name, value in os.environ.items() if inherit and not name.startswith("TS")}
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603  (commands of ours)
        command,
        stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd="/",
        pass_fds=pass_fds, env={**kept, **(variables or {})}, start_new_session=True,
    )  # fmt: skip


def run(
    command: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    inherit: bool = True,
    check: bool = True,
) -> str:
    """Run a program to its end; what it has said. LabError has its last line when it fails."""
    process = spawn(command, variables=variables, inherit=inherit)
    said, errors = _communicate(process)
    if check and process.returncode:
        raise LabError(last_line(errors or said) or f"{command[0]} failed")
    return said


def answer(process: subprocess.Popen[str]) -> Any:
    """The next line of JSON that a program says; LabError has its last line when it ends without."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise LabError(last_line(_communicate(process)[1]) or "a program ended without a word")
    return json.loads(line)


def last_answer(process: subprocess.Popen[str]) -> Any:
    """What a program has said when it has ended."""
    said, errors = _communicate(process)
    if process.returncode or not said:
        raise LabError(last_line(errors) or "a program ended without a word")
    return json.loads(said)


def end(process: subprocess.Popen[str]) -> None:
    """Ask a program to end, and see to it that it does."""
    process.terminate()
    _communicate(process, END_TIME)


def last_line(text: str) -> str:
    """Where programs say what went wrong."""
    return text.strip().rpartition("\n")[2]


def _communicate(process: subprocess.Popen[str], timeout: float = COMMAND_TIME) -> tuple[str, str]:
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()
    except BaseException:
        process.kill()
        process.communicate()
        raise
