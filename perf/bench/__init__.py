# SPDX-License-Identifier: BSD-3-Clause
"""The harness: scenarios × contenders, side by side on one machine, in one run. `python -m perf` is its command.

    sites       two hosts and the path between them      contenders   who is measured: ours, others
    scenarios   what is measured, with iperf, ping and   run          who has his turn when
                traffic (datagrams, arrivals)            results      medians and spread
    processes   CPU time, memory, wake-ups               table, plot, machine: what is shown

All contenders of a path stand at the same time and take turns, so that the machine is the same for all of them; what
counts are ratios within a run. Networks and nodes are those of tests/.
"""
