# SPDX-License-Identifier: BSD-3-Clause
"""The build back end asks for Cython only where there is something to compile and something to compile with.

Each test gives the back end a small project of its own, a PATH with or without a compiler, and a folder with or without
Python's headers. Nothing is built.
"""

import json
import os
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


def add_compiler(project: Path) -> None:
    compiler = project / "bin" / "some-cc"
    compiler.touch()
    compiler.chmod(0o755)


def ask(project: Path) -> tuple[list[list[str]], list[str]]:
    """What the hooks for a wheel and for an editable install ask for beside setuptools' own; the extensions."""
    return answer(project)[:2]


def answer(project: Path) -> tuple[list[list[str]], list[str], str]:
    """Likewise, and what the back end said."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=project,
        env={**os.environ, "PATH": str(project / "bin"), "PYTHONPATH": "build_backend", "CC": "some-cc -pthread"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked, extensions = json.loads(done.stdout.splitlines()[-1])
    return [[name for name in names if name != "wheel"] for names in asked], extensions, done.stderr


def test_cython_is_asked_for_with_source_and_compiler(project: Path) -> None:
    add_compiled_source(project)
    add_compiler(project)
    (wheel, editable), extensions = ask(project)
    assert [re.split("[>=]", name)[0] for name in wheel] == ["cython", "liburing"]
    assert editable == wheel
    assert extensions == ["ts4nsnet.uring.ring"]


def test_nothing_is_asked_for_without_a_compiler(project: Path) -> None:
    add_compiled_source(project)
    asked, extensions, said = answer(project)
    assert (asked, extensions) == ([[], []], [])
    assert "there is no C compiler (Debian: apt install gcc)" in said


def test_nothing_is_asked_for_without_pythons_headers(project: Path) -> None:
    add_compiled_source(project)
    add_compiler(project)
    (project / "include" / "Python.h").unlink()
    asked, extensions, said = answer(project)
    assert (asked, extensions) == ([[], []], [])
    assert "apt install python3-dev" in said


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
