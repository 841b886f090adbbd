# SPDX-License-Identifier: BSD-3-Clause
"""What was measured, and what is said of it: medians with their spread, of one figure a round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Summary:
    """Of a figure's values: the median, the smallest and the greatest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """At least one value is needed."""
        return cls(median(values), min(values), max(values))


@dataclass
class Series:
    """A scenario's figures for one contender, a value each round; and what went wrong."""

    values: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, figures: Mapping[str, float]) -> None:
        """Take the figures of one round."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def summary(self, name: str) -> Summary | None:
        """Of a figure; None if nothing was measured."""
        values = self.values.get(name)
        return Summary.of(values) if values else None


@dataclass
class Results:
    """Everything, by scenario and contender, in the order in which it was measured first."""

    series: dict[str, dict[str, Series]] = field(default_factory=dict)

    def of(self, scenario: str, contender: str) -> Series:
        """To be read and added to."""
        return self.series.setdefault(scenario, {}).setdefault(contender, Series())

    def figures(self, scenario: str) -> list[str]:
        """The names of a scenario's figures; the first is the one to compare by."""
        by_contender = sorted(self.series[scenario].values(), key=lambda series: len(series.values), reverse=True)
        return list(dict.fromkeys(name for series in by_contender for name in series.values))

    def to_json(self) -> dict[str, Any]:
        """As it is written to files: of every figure all values, the median, the least and the most."""
        return {
            scenario: {name: _series_json(series) for name, series in by_contender.items()}
            for scenario, by_contender in self.series.items()
        }


def _series_json(series: Series) -> dict[str, Any]:
    figures = {}
    for name, values in series.values.items():
        summary = Summary.of(values)
        figures[name] = {
            "median": summary.median,
            "least": summary.least,
            "most": summary.most,
            "values": values,
        }
    return {"figures": figures, "failures": series.failures}
