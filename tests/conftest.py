# SPDX-License-Identifier: BSD-3-Clause
"""Which tests run where; see tests/namespaces.py for the namespaces, tests/topology.py for the networks in them.

A pytest whose arguments lie in tests/system and tests/interop enters namespaces before it does anything else. One
that finds such tests only by collecting (`pytest -k nat`, `pytest --lf`) enters when nothing else was selected. The
others must stay outside, tests/host above all; so a mixture, as with a bare `pytest`, is refused.

HYPOTHESIS_PROFILE=long lets hypothesis try fifty times as many examples.

With CI=true a test that is skipped has failed: nobody reads what CI skips.
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import namespaces
from tests.topology import topology

__all__ = ["topology"]  # the fixture, for every folder

CI = os.environ.get("CI") == "true"

# no deadline: a busy machine is no finding; in CI the same examples every time, so that a change is to blame
settings.register_profile("short", deadline=None, derandomize=CI, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=5000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and CI and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, which in CI is a failure: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and CI:
        report.outcome, report.longrepr = "failed", f"skipped, which in CI is a failure: {report.longrepr}"
    return report


def pytest_configure() -> None:
    # of a shell's job in the background; what tests start, and interrupt, would ignore these, too
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_cmdline_main(config: pytest.Config) -> None:
    if namespaces.inside() or all(namespaces.needed_by(path) for path in _selected(config)):
        _enter(config)


def pytest_collection_finish(session: pytest.Session) -> None:
    insiders = [item for item in session.items if namespaces.needed_by(item.path)]
    if not insiders or namespaces.inside() or session.config.option.collectonly:
        return
    if len(insiders) < len(session.items):
        raise pytest.UsageError(
            "tests/system and tests/interop run in namespaces of their own, the other tests outside: "
            "use `make test`, or give pytest folders of one kind"
        )
    if reason := _enter(session.config):
        for item in insiders:
            item.add_marker(pytest.mark.skip(reason=reason))


def _enter(config: pytest.Config) -> str:
    # why the tests are to be skipped; empty: they need not
    try:
        namespaces.enter(config)
    except namespaces.Unavailable as reason:
        return str(reason)
    return ""


def _selected(config: pytest.Config) -> list[Path]:
    # "tests/system/test_x.py::test_y" or what testpaths says
    return [(config.invocation_params.dir / name.partition("::")[0]).resolve() for name in config.args]
