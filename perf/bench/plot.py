# SPDX-License-Identifier: BSD-3-Clause
"""The same as a picture: a panel for each scenario, a bar for each contender, a whisker from the least to the most."""

from collections.abc import Callable
from pathlib import Path

from perf.bench.results import Results
from perf.bench.table import number

MOST_COLUMNS = 3
PANEL = (5.0, 2.6)  # inches


class NoPlot(Exception):
    """There is nothing to draw with; the text says what to install."""


def require() -> None:
    """Raise NoPlot unless `plot` can work; asked before hours of measuring."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise NoPlot("a plot needs matplotlib, which is not installed: .venv/bin/pip install matplotlib") from None


def plot(results: Results, title: Callable[[str], str], path: Path) -> None:
    """Write a picture; its kind is that of the name's suffix."""
    require()
    from matplotlib.figure import Figure

    scenarios = [scenario for scenario in results.series if results.figures(scenario)]
    columns = max(1, min(MOST_COLUMNS, len(scenarios)))
    rows = max(1, -(-len(scenarios) // columns))
    figure = Figure(figsize=(columns * PANEL[0], rows * PANEL[1]), layout="constrained")
    for position, scenario in enumerate(scenarios, 1):
        name = results.figures(scenario)[0]
        bars = {
            contender: summary
            for contender, series in results.series[scenario].items()
            if (summary := series.summary(name))
        }
        medians = [summary.median for summary in bars.values()]
        spread = [
            [summary.median - summary.least for summary in bars.values()],
            [summary.most - summary.median for summary in bars.values()],
        ]
        axes = figure.add_subplot(rows, columns, position)
        drawn = axes.barh(list(bars), medians, xerr=spread, color="tab:blue", ecolor="black", capsize=2)
        axes.bar_label(drawn, [number(median) for median in medians], padding=4, fontsize="small")
        axes.margins(x=0.2)  # for the labels
        axes.invert_yaxis()
        axes.set_xlabel(name)
        axes.set_title(title(scenario), fontsize="small", wrap=True)
    figure.savefig(path, dpi=120)
