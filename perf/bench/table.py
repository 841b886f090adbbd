# SPDX-License-Identifier: BSD-3-Clause
"""The text table: a block for each scenario, a line for each contender.

TCP, one flow · a path of 1500 bytes            (tcp-up)
                    Mbit/s   × wireguard-go    client s/GB …
uring     3996 (3801–4100)             6.69           1.67
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from perf.bench.results import Results, Series, Summary

GAP = "  "


def number(value: float) -> str:
    """With three digits that count, and no fewer before the point."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(summary: Summary | None, *, spread: bool) -> str:
    """A median; with its spread, if there is one to show."""
    if summary is None:
        return "-"
    if not spread or summary.least == summary.most:
        return number(summary.median)
    return f"{number(summary.median)} ({number(summary.least)}–{number(summary.most)})"


def table(results: Results, reference: str, title: Callable[[str], str]) -> str:
    """All blocks; `reference` is whom the first figure of others is divided by, `title` what a scenario is called."""
    return "\n\n".join(_block(results, scenario, reference, title(scenario)) for scenario in results.series)


def facts(machine: Mapping[str, str]) -> str:
    """The machine's facts, a line each."""
    width = max(map(len, machine))
    return "\n".join(f"{name:{width}}{GAP}{value}" for name, value in machine.items())


def _block(results: Results, scenario: str, reference: str, title: str) -> str:
    by_contender, names = results.series[scenario], results.figures(scenario)
    other = by_contender[reference].summary(names[0]) if names and reference in by_contender else None
    head = ["", *names]
    if other:
        head.insert(2, f"× {reference}")
    rows = [head]
    for contender, series in by_contender.items():
        row = [contender, *(cell(series.summary(name), spread=name == names[0]) for name in names)]
        if other:
            row.insert(2, _ratio(series.summary(names[0]), other))
        rows.append(row)
    lines = [f"{title}{GAP}[{scenario}]", *_aligned(rows), *_failures(by_contender)]
    return "\n".join(lines)


def _ratio(summary: Summary | None, other: Summary) -> str:
    return f"{summary.median / other.median:.2f}" if summary and other.median else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))
        yield GAP.join([f"{first:{widths[0]}}", *cells]).rstrip()


def _failures(by_contender: Mapping[str, Series]) -> Iterable[str]:
    for contender, series in by_contender.items():
        for why in dict.fromkeys(series.failures):
            yield f"! {contender}: {why}"
