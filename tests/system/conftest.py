# SPDX-License-Identifier: BSD-3-Clause
"""A tailnet of our own, or a machine with one on it, for every test here that asks for one."""

from tests.system.machine import machine
from tests.system.tailnet import world

__all__ = ["machine", "world"]
