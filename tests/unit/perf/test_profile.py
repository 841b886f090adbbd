# SPDX-License-Identifier: BSD-3-Clause
"""What profiles say, put together."""

from pathlib import Path

import pytest

from perf.bench.contenders import parse
from perf.profile import cost, kind, shares, table, what_is_missing

REPORT = """# Samples: 4K of event 'cpu-clock:pppH'
#
# Overhead;Pid:Command;Shared Object;Symbol
    30.00%  ;     25:ts4nsnet-worker;_rust.abi3.so                            ;[.] ChaCha20_avx512
    10.00%  ;     25:ts4nsnet-worker;_rust.abi3.so                            ;[.] Poly1305_Update
     6.00%  ;     25:ts4nsnet-worker;[kernel.kallsyms]                        ;[k] _copy_to_iter
     2.00%  ;     25:ts4nsnet-worker;libc.so.6                                ;[.] __memmove_avx_unaligned_erms
     2.00%  ;     25:ts4nsnet-worker;python3.11                               ;[.] _PyEval_EvalFrameDefault

"""
ENGINE = Path(__file__).resolve().parents[3] / "ts4nsnet" / "uring"


@pytest.mark.parametrize(
    ("library", "symbol", "what"),
    [
        ("_rust.abi3.so", "[.] memcpy", "the cipher"),
        ("libc.so.6", "[.] __memmove_avx_unaligned_erms", "copies"),
        ("offload.cpython-311-x86_64-linux-gnu.so", "[.] cut", "cutting, coalescing, checksums"),
        ("[kernel.kallsyms]", "[k] try_to_wake_up", "waiting and waking"),
        ("[kernel.kallsyms]", "[k] tun_do_read", "the kernel: TUN, sockets, network"),
        ("[kernel.kallsyms]", "[k] _copy_from_iter", "copies"),
        ("python3.11", "[.] 0x000000000010ba84", "Python"),
        ("python3.11", "[.] wakeup", "Python"),
    ],
)
def test_kinds_of_work(library: str, symbol: str, what: str) -> None:
    assert kind(library, symbol) == what


def test_every_compiled_module_is_known_as_one() -> None:
    for source in ENGINE.glob("*.pyx"):
        assert kind(f"{source.stem}.cpython-311-x86_64-linux-gnu.so", "[.] f") == "cutting, coalescing, checksums"


def test_shares_are_of_what_was_seen() -> None:
    found = shares(REPORT)
    assert sum(found.values()) == pytest.approx(1)
    assert (found["the cipher"], found["copies"], found["Python"]) == pytest.approx((0.8, 0.16, 0.04))


def test_nothing_seen() -> None:
    assert shares("# Samples: 0\n") == {}


def test_the_cost_of_a_packet() -> None:
    assert cost({"kpps": 200, "client µs/packet": 2.5, "client s/GB": 39}, "client", 1280) == 2.5
    assert cost({"Mbit/s": 4000, "server s/GB": 2.0}, "server", 1280) == pytest.approx(2 * 1.228)


def test_the_table_has_microseconds() -> None:
    lines = table({"tcp-up, out": (2.0, {"the cipher": 0.75, "Python": 0.25}), "tcp-up, in": (1.0, {})}).splitlines()
    assert lines[:4] == [
        "| µs a packet | tcp-up, out | tcp-up, in |",
        "| --- | --- | --- |",
        "| all | 2.00 | 1.00 |",
        "| the cipher | 1.50 | 0.00 |",
    ]
    assert lines[-1] == "| Python | 0.50 | 0.00 |"


@pytest.mark.parametrize("name", ["uring", "veth@1280", "slirp4netns@1500"])
def test_what_has_no_packets_of_a_known_size_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("perf.profile.unprivileged", lambda: False)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/perf")
    assert "expected a tunnel and its MTU, as in uring@1280" in what_is_missing(parse(name))


def test_root_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perf.profile.unprivileged", lambda: True)
    assert "run it as root" in what_is_missing(parse("uring@1280"))
