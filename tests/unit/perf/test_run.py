# SPDX-License-Identifier: BSD-3-Clause
"""Who is measured by what, and where."""

from perf.bench.contenders import KINDS, parse
from perf.bench.run import Plan, fits
from perf.bench.scenarios import QUICK, SCENARIOS, USUAL, ping_times
from perf.bench.sites import DIRECT, ONE_HOST, RELAYED, WAYS, WIDE

EVERYTHING = Plan([parse(name) for name in KINDS], SCENARIOS, rounds=1, seconds=1)


def test_ours_do_everything() -> None:
    assert all(fits(parse("uring"), scenario) for scenario in SCENARIOS.values())


def test_what_makes_no_sense_is_left_out() -> None:
    assert not fits(parse("veth"), SCENARIOS["idle"])  # nobody is there to be idle
    assert not fits(parse("veth"), SCENARIOS["relayed"])
    assert not fits(parse("slirp4netns"), SCENARIOS["vxlan"])  # the server does not reach the container
    assert fits(parse("slirp4netns"), SCENARIOS["tcp-down"])


def test_a_plan_falls_into_parts_by_path() -> None:
    parts = [EVERYTHING.on(way) for way in WAYS]
    assert {name for part in parts for name in part.scenarios} == SCENARIOS.keys()
    assert [each.name for each in EVERYTHING.on(DIRECT).contenders] == list(KINDS)
    assert [each.name for each in EVERYTHING.on(RELAYED).contenders] == ["uring", "epoll", "python", "tailscaled"]
    assert [each.name for each in EVERYTHING.on(ONE_HOST).contenders] == ["uring", "epoll", "python", "veth"]
    assert "slirp4netns" not in [each.name for each in EVERYTHING.on(WIDE).contenders]


def test_scenarios_have_their_paths() -> None:
    assert {name for name in SCENARIOS if SCENARIOS[name].way is not DIRECT} == {
        *("jumbo", "relayed", "relayed-ping", "one-host"),
    }
    assert set(QUICK) < set(USUAL) == SCENARIOS.keys() - {"soak"}


def test_lost_pings_have_no_time() -> None:
    said = "64 bytes from 10.9.0.2: icmp_seq=1 ttl=64 time=0.412 ms\n64 bytes: icmp_seq=3 ttl=64 time=12 ms\n"
    assert ping_times(said + "3 packets transmitted, 2 received, time 2003ms") == [0.412, 12.0]
