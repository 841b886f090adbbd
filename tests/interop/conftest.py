# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of tests against other implementations."""

from tests.interop.gopeer import tsnet

__all__ = ["tsnet"]
