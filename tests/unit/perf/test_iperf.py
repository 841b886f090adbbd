# SPDX-License-Identifier: BSD-3-Clause
"""Reading iperf3's reports."""

import json

import pytest

from perf.bench.iperf import Failed, Transfer, parse

REPORT = json.dumps(
    {
        "start": {},
        "end": {
            "sum_sent": {"seconds": 2.0, "bytes": 600_000_000, "retransmits": 17},
            "sum_received": {"seconds": 2.5, "bytes": 500_000_000, "bits_per_second": 1.6e9},
        },
    }
)


def test_what_the_receiver_saw() -> None:
    assert parse(REPORT) == Transfer(500_000_000, 2.5, 17)
    assert parse(REPORT).megabits == pytest.approx(1600)


def test_a_warning_before_it() -> None:
    assert parse("warning: small buffer\n" + REPORT) == parse(REPORT)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        ('{"start": {}, "error": "unable to connect to server"}', "unable to connect to server"),
        ("iperf3: no such option", "no JSON, but 'iperf3: no such option'"),
        ('{"start": {', "no JSON"),
        ("", "no JSON"),
    ],
)
def test_failures_say_why(report: str, why: str) -> None:
    with pytest.raises(Failed, match=why):
        parse(report)
