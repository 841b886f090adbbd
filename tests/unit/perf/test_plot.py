# SPDX-License-Identifier: BSD-3-Clause
"""The picture: that there is one, or what to install."""

import sys
from pathlib import Path

import pytest

from perf.__main__ import main
from perf.bench.plot import plot
from perf.bench.results import Results

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_picture_is_written(tmp_path: Path) -> None:
    results = Results()
    for value in (1.0, 3.0):
        results.of("tcp-up", "uring").add({"Mbit/s": value})
        results.of("ping", "uring").add({"ms": value})
    results.of("tcp-up", "pasta").failures.append("it broke")
    results.of("rest", "uring").failures.append("it broke")
    plot(results, str.upper, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(PNG)


def test_without_matplotlib_it_says_so_before_it_measures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--plot", "results.png"]) == 2
    assert "matplotlib, which is not installed" in capsys.readouterr().err
