# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet lab serve`: its options; tests/system/lab runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ts4nsnet.cli.main import main


@pytest.mark.parametrize("arguments", [["lab"], ["lab", "serve"], ["lab", "serve", "--listen", "127.0.0.1:0"]])
def test_what_is_missing_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "required" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", ":1", "127.0.0.1:65536", "127.0.0.1:x"])
def test_address_that_is_none(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["lab", "serve", "--listen", address, "--state", "x"])
    assert "want address and port" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["192.0.2.1:1", "[::]:0", "localhost:0"])
def test_address_that_cannot_be_used(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "serve", "--listen", address, "--state", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ts4nsnet lab serve: ")
    assert captured.err.count("\n") == 1


def test_help_imports_no_server() -> None:
    program = (
        "import sys; from ts4nsnet.cli.main import main\n"
        "try: main(['lab', 'serve', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('trio' in sys.modules or 'ts4nsnet.lab' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0
