# SPDX-License-Identifier: BSD-3-Clause
"""The keeper stays for as long as a container does, so it loads little; its public names are documented."""

import subprocess
import sys

import pytest

import ts4nsnet.keeper

# and what is large in the standard library
UNWANTED = ["pyroute2", "trio", "cryptography", "nacl", "h2", "asyncio", "ssl", "logging", "email", "http"]


@pytest.mark.parametrize("module", ["ts4nsnet.keeper", "ts4nsnet.keeper.main"])
def test_import_is_standard_library_only_and_little_of_it(module: str) -> None:
    code = f"import sys, {module}; print(*(m for m in {UNWANTED} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ts4nsnet.keeper.__all__)
def test_public_names_are_documented(name: str) -> None:
    assert getattr(ts4nsnet.keeper, name).__doc__
