# SPDX-License-Identifier: BSD-3-Clause
"""The build back end asks for Cython only where there is something to compile and something to compile with.

Each test gives the back end a small project of its own, a PATH with or without a compiler (a script that says yes), and
a folder with or without Python's headers. Nothing is compiled.
"""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PYPROJECT = """
[project]
name = "ts4nsnet"
version = "1"

[tool.setuptools]
packages = ["ts4nsnet"]
"""
# prints what is asked for, then the extensions; the hooks themselves print, so ours is the last line
PROGRAM = """
import json, sysconfig
sysconfig.get_path = lambda name: name
import ts4nsnet_build as backend
asked = [backend.get_requires_for_build_wheel(), backend.get_requires_for_build_editable()]
print(json.dumps([asked, [extension.name for extension in backend.extensions()]]))
"""
LINE = re.compile(
    r"ts4nsnet: no compiled engine, the slow `python` one is used: there is no (.*); for the fast one, .*"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package without compiled code, with our back end."""
    shutil.copytree(ROOT / "build_backend", tmp_path / "build_backend")
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "ts4nsnet" / "uring").mkdir(parents=True)
    (tmp_path / "ts4nsnet" / "__init__.py").touch()
    (tmp_path / "bin").mkdir()  # the PATH
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    return tmp_path


def add_compiled_source(project: Path) -> None:
    (project / "ts4nsnet" / "uring" / "ring.pyx").touch()


def add_compiler(project: Path, does: str = "exit 0") -> None:
    for name, text in (("some-cc", does), ("make", "exit 0")):
        program = project / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)


def ask(project: Path) -> tuple[list[list[str]], list[str]]:
    """What the hooks for a wheel and for an editable install ask for beside setuptools' own; the extensions."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked, extensions = json.loads(done.stdout.splitlines()[-1])
    return [[name for name in names if name != "wheel"] for names in asked], extensions


def environment(project: Path) -> dict[str, str]:
    return {**os.environ, "PATH": str(project / "bin"), "PYTHONPATH": "build_backend", "CC": "some-cc -pthread"}


def said_by(project: Path, hook: str) -> list[str]:
    """What is missing, in each line that says so while a wheel is built (which works)."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + f"print(backend.{hook}('dist'))"],
        cwd=project,
        env=environment(project),
        start_new_session=True,  # no terminal but the one a test gives it
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name = done.stdout.splitlines()[-1]
    assert name.endswith("-none-any.whl")
    assert (project / "dist" / name).is_file()
    return LINE.findall(done.stderr)


def test_cython_is_asked_for_with_source_and_compiler(project: Path) -> None:
    add_compiled_source(project)
    add_compiler(project)
    (wheel, editable), extensions = ask(project)
    assert [re.split("[>=]", name)[0] for name in wheel] == ["cython", "liburing"]
    assert editable == wheel
    assert extensions == ["ts4nsnet.uring.ring"]


@pytest.mark.parametrize("hook", ["build_wheel", "build_editable"])
def test_nothing_is_asked_for_without_a_compiler(project: Path, hook: str) -> None:
    add_compiled_source(project)
    assert ask(project) == ([[], []], [])
    assert said_by(project, hook) == ["C compiler (some-cc)"]


def test_nothing_is_asked_for_without_make(project: Path) -> None:
    add_compiled_source(project)
    add_compiler(project)
    (project / "bin" / "make").unlink()
    assert ask(project) == ([[], []], [])
    assert said_by(project, "build_wheel") == ["make"]


def test_nothing_is_asked_for_without_pythons_headers(project: Path) -> None:
    add_compiled_source(project)
    add_compiler(project)
    (project / "include" / "Python.h").unlink()
    assert ask(project) == ([[], []], [])
    assert said_by(project, "build_wheel") == ["include/Python.h"]


def test_nothing_is_asked_for_with_a_compiler_that_fails(project: Path) -> None:
    add_compiled_source(project)
    add_compiler(project, "echo 'stdlib.h: error: no such file' >&2; exit 1")
    assert ask(project) == ([[], []], [])
    assert said_by(project, "build_wheel") == ["C compiler that compiles Python.h (stdlib.h: error: no such file)"]


def test_the_terminal_is_told_where_pip_keeps_what_a_build_says(project: Path) -> None:
    add_compiled_source(project)
    pid, terminal = pty.fork()
    if pid == 0:  # as pip: output goes elsewhere
        os.chdir(project)
        for fd in (1, 2):
            os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
        os.execve(sys.executable, [sys.executable, "-c", PROGRAM + "backend.build_wheel('dist')"], environment(project))
    said = b""
    try:
        while piece := os.read(terminal, 4096):
            said += piece
    except OSError:  # EIO: nobody has it open any more
        pass
    finally:
        os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    assert LINE.findall(said.decode()) == ["C compiler (some-cc)"]
    assert LINE.findall((project / "log").read_text()) == ["C compiler (some-cc)"]


def test_nothing_is_asked_for_without_compiled_source(project: Path) -> None:
    add_compiler(project)
    assert ask(project) == ([[], []], [])


def test_a_source_distribution_brings_its_own_back_end(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; sys.path.insert(0, 'build_backend'); import ts4nsnet_build as backend\n"
        "print(backend.build_sdist(sys.argv[1]))"
    )
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", ".*_cache", "tests", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=60, check=True)
    with tarfile.open(tmp_path / done.stdout.splitlines()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"build_backend/ts4nsnet_build.py", "setup.py", "pyproject.toml", "ts4nsnet/py.typed"} <= names
