# SPDX-License-Identifier: BSD-3-Clause
"""The order of a run: one path after the other; on each, all contenders stand at once and take turns.

A round measures one scenario after the other, and in each one contender after the other, beginning with another one
each round: so whatever else the machine does meets all of them, and nobody always comes after the same one. What fails
is noted in the results; the others go on.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from perf.bench.contenders import Contender
from perf.bench.iperf import Failed
from perf.bench.results import Results, Series
from perf.bench.scenarios import Refused, Scenario
from perf.bench.sites import WAYS, Pair, Site, Way
from tests.topology import Topology

# what programs and tests' helpers end with: CommandFailed is an AssertionError
ERRORS = (Failed, Refused, AssertionError, OSError, RuntimeError, ValueError, LookupError)


def fits(contender: Contender, scenario: Scenario) -> bool:
    """Whether the scenario means anything for this contender."""
    kind = contender.kind
    return (
        scenario.way in kind.ways
        and not (scenario.needs_ends and kind.is_bare)
        and not (scenario.needs_both and kind.is_one_sided)
    )


@dataclass(frozen=True)
class Plan:
    """What to measure, how often, and how long each time."""

    contenders: Sequence[Contender]
    scenarios: Mapping[str, Scenario]
    rounds: int
    seconds: float

    def on(self, way: Way) -> "Plan":
        """The part of it that belongs to a path."""
        scenarios = {name: scenario for name, scenario in self.scenarios.items() if scenario.way is way}
        some = [each for each in self.contenders if any(fits(each, scenario) for scenario in scenarios.values())]
        return replace(self, contenders=some, scenarios=scenarios)


def run(plan: Plan, folder: Path) -> Results:
    """Carry it out; `folder` is for what contenders keep, and must be the caller's alone."""
    results = Results()
    for name, scenario in plan.scenarios.items():
        for contender in plan.contenders:
            if fits(contender, scenario):
                results.of(name, contender.name)  # so the table has the plan's order
    for number, way in enumerate(WAYS):
        here = plan.on(way)
        if here.contenders:
            own = folder / str(number)
            own.mkdir(0o700)
            _alternate(way, here, own, results)
    return results


def _alternate(way: Way, plan: Plan, folder: Path, results: Results) -> None:
    with topology() as made:
        pairs = {}
        for number, contender in enumerate(plan.contenders):
            _say(f"{way.name}: {contender.name}")
            own = folder / str(number)
            own.mkdir(0o700)
            try:
                pairs[contender.name] = contender.kind.stand(Site(made, number, way, contender.mtu, own))
            except ERRORS as error:
                for name, scenario in plan.scenarios.items():
                    if fits(contender, scenario):
                        _fail(results.of(name, contender.name), error)
        for number in range(plan.rounds):
            _say(f"{way.name}: round {number + 1} of {plan.rounds}")
            turn = number % len(plan.contenders)
            order = [*plan.contenders[turn:], *plan.contenders[:turn]]
            for name, scenario in plan.scenarios.items():
                for contender in order:
                    if fits(contender, scenario) and contender.name in pairs:
                        _attempt(scenario, pairs[contender.name], plan.seconds, results.of(name, contender.name))


def _attempt(scenario: Scenario, pair: Pair, seconds: float, series: Series) -> None:
    try:
        series.add(scenario.measure(pair, seconds))
    except ERRORS as error:
        _fail(series, error)


def _fail(series: Series, error: BaseException) -> None:
    lines = str(error).strip().splitlines() or [""]
    series.failures.append(f"{type(error).__name__}: {lines[0]}" + (f" … {lines[-1]}" if len(lines) > 1 else ""))


@contextmanager
def topology() -> Iterator[Topology]:
    """Networks for the length of the block."""
    made = Topology()
    try:
        yield made
    finally:
        with redirect_stdout(StringIO()):  # what the programs said
            made.close()


def _say(text: str) -> None:
    print(text, file=sys.stderr)
