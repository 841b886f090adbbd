# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the benchmarks."""

import pytest

from perf.__main__ import QUICK_CONTENDERS, arguments, main, plan
from perf.bench.scenarios import QUICK, USUAL


def test_everything_that_is_installed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    made = plan(arguments([]))
    assert [each.name for each in made.contenders] == ["uring", "epoll", "python", "veth"]
    assert (list(made.scenarios), made.rounds, made.seconds) == (USUAL, 5, 2)


def test_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    made = plan(arguments(["--quick"]))
    assert [each.name for each in made.contenders] == [name for name in QUICK_CONTENDERS if name != "wireguard-go"]
    assert (list(made.scenarios), made.rounds, made.seconds) == (QUICK, 1, 1)


def test_a_choice_counts_also_when_it_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    words = "--quick --contenders tailscaled uring@1280 tailscaled --scenarios soak --rounds 2 --time 600"
    made = plan(arguments(words.split()))
    assert [each.name for each in made.contenders] == ["tailscaled", "uring@1280"]
    assert (list(made.scenarios), made.rounds, made.seconds) == (["soak"], 2, 600)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--contenders uring@12", "'12' is no MTU; expected 1280 to 65520"),
        ("--scenarios tcp", "invalid choice: 'tcp'"),
        ("--rounds 0", "'0' is no number; expected 1 or more"),
    ],
)
def test_what_it_does_not_know_it_refuses(words: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_who_was_asked_for_and_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["--contenders", "tailscaled"]) == 2
    assert capsys.readouterr().err.startswith("perf: tailscaled needs tailscaled, tailscale: install it")
