# SPDX-License-Identifier: BSD-3-Clause
"""A tailnet of our own, for every test here that asks for one."""

from tests.system.tailnet import world

__all__ = ["world"]
