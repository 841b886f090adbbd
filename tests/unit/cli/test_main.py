# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet --version` and `--help`: what a container tool asks before every start."""

import subprocess
import sys
from pathlib import Path

import pytest

import ts4nsnet
from ts4nsnet.cli.main import main


def test_version_from_any_folder(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("ts4nsnet")), "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"ts4nsnet {ts4nsnet.__version__}\n"


def test_help_is_shown_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "--version" in capsys.readouterr().out


def test_version_imports_nothing_but_the_standard_library() -> None:
    program = (
        "import sys; from ts4nsnet.cli.main import main\n"
        "foreign = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "sys.exit(str(sorted(foreign - {'ts4nsnet', '__main__'})))"
    )
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, '.')\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.strip() == "[]"
