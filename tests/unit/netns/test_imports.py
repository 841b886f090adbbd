# SPDX-License-Identifier: BSD-3-Clause
"""Entering a namespace comes before any third-party import, and the public names are documented."""

import subprocess
import sys

import pytest

import ts4nsnet.netns

THIRD_PARTY = ["pyroute2", "trio", "cryptography", "nacl", "asyncio"]


@pytest.mark.parametrize("module", ["ts4nsnet.netns", "ts4nsnet.netns.enter"])
def test_import_is_standard_library_only(module: str) -> None:
    code = f"import sys, {module}; print(*(m for m in {THIRD_PARTY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ts4nsnet.netns.__all__)
def test_public_names_are_documented(name: str) -> None:
    assert getattr(ts4nsnet.netns, name).__doc__


def test_at_most_twelve_names() -> None:
    assert len(ts4nsnet.netns.__all__) <= 12
