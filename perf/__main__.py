# SPDX-License-Identifier: BSD-3-Clause
"""`python -m perf`: measure tunnels side by side, and show a table; perf/README.md says how to read it.

    python -m perf --quick
    python -m perf --rounds 5 --time 5 --json results.json --plot results.png
    python -m perf --contenders uring@1280 wireguard-go --scenarios tcp-up udp-64
    python -m perf --contenders uring --scenarios soak --time 600 --rounds 1

It replaces itself by a process in namespaces of its own, as tests/system does, and needs no privileges.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from perf.bench import machine
from perf.bench.contenders import KINDS, REFERENCE, Contender, Unknown, parse
from perf.bench.plot import NoPlot, plot, require
from perf.bench.run import Plan, run
from perf.bench.scenarios import QUICK, SCENARIOS, USUAL
from perf.bench.table import facts, table
from tests import namespaces

INSIDE = "--inside"  # set for the process in the namespaces
QUICK_CONTENDERS = ["uring", "epoll", REFERENCE, "veth"]


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m perf", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of one second, few of both; under a minute")
    names = ", ".join(KINDS)
    parser.add_argument(
        "--contenders", nargs="+", type=contender, metavar="NAME[@MTU]", help=f"of {names}; default: what is installed"
    )
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=positive, help="default: 5")
    parser.add_argument("--time", type=positive, help="seconds of each measurement; default: 2")
    parser.add_argument("--programs", type=Path, metavar="FOLDER", help="where programs are looked for first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write a picture of it (needs matplotlib)")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def contender(name: str) -> Contender:
    """An argument that names one."""
    try:
        return parse(name)
    except Unknown as why:
        raise argparse.ArgumentTypeError(str(why)) from None


def positive(text: str) -> int:
    """An argument that is a whole number."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number; expected 1 or more")
    return int(text)


def plan(options: argparse.Namespace) -> Plan:
    """What to measure; contenders that were not asked for are left out if their programs are not there."""
    usual = [parse(name) for name in (QUICK_CONTENDERS if options.quick else KINDS)]
    scenarios = options.scenarios or (QUICK if options.quick else USUAL)
    contenders = options.contenders or [each for each in usual if not each.missing]
    return Plan(
        list(dict.fromkeys(contenders)),
        {name: SCENARIOS[name] for name in scenarios},
        options.rounds or (1 if options.quick else 5),
        options.time or (1 if options.quick else 2),
    )


def title(scenario: str) -> str:
    """What a scenario is called in tables and pictures."""
    return f"{SCENARIOS[scenario].title} · {SCENARIOS[scenario].way.name}"


def what_is_missing(options: argparse.Namespace) -> str:
    """Why it cannot be done; empty: it can."""
    for each in plan(options).contenders:
        if each.missing:
            return f"{each.name} needs {', '.join(each.missing)}: install it, or give its --programs FOLDER"
    try:
        if options.plot:
            require()
    except NoPlot as why:
        return str(why)
    return ""


def measure(options: argparse.Namespace) -> None:
    """Do it, in namespaces."""
    wanted = plan(options)
    known = machine.facts()
    with tempfile.TemporaryDirectory() as folder:
        results = run(wanted, Path(folder))
    print(facts(known), table(results, REFERENCE, title), sep="\n\n")
    if options.json:
        done = {"rounds": wanted.rounds, "seconds": wanted.seconds}
        report = {"machine": known, **done, "scenarios": results.to_json()}
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if options.plot:
        plot(results, title, options.plot)


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status is returned."""
    options = arguments(words)
    if options.programs:
        os.environ["PATH"] = f"{options.programs.absolute()}:{os.environ['PATH']}"
    if why := what_is_missing(options):
        print(f"perf: {why}", file=sys.stderr)
        return 2
    if options.inside:
        namespaces.furnish()
        measure(options)
        return 0
    return subprocess.run([*namespaces.UNSHARE, sys.executable, "-m", "perf", INSIDE, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
