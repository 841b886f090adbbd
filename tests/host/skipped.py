# SPDX-License-Identifier: BSD-3-Clause
"""A test that skips itself; test_reexec.py runs it, nobody else does, as its name is not a test's."""

import pytest


def test_that_skips() -> None:
    pytest.skip("for the sake of it")
