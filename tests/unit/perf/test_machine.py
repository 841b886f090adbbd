# SPDX-License-Identifier: BSD-3-Clause
"""Facts about the machine."""

from perf.bench.machine import facts, processor


def test_a_processor_s_name() -> None:
    assert processor("processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n") == "AMD EPYC"
    assert processor("processor\t: 0\nBogoMIPS\t: 48.00\n") == "?"


def test_what_runs_differ_by() -> None:
    assert {"kernel", "processors", "load before", "python", "ts4nsnet", "cryptography"} <= facts().keys()
