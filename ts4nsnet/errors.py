# SPDX-License-Identifier: BSD-3-Clause
"""The root of all our exceptions.

Each package has one small family below it (`WireGuardError`, `NetnsError`, …). Input from outside never raises
anything else; an error says what was wrong, what was expected and what to do.
"""


class Ts4nsnetError(Exception):
    """Whatever this project raises on purpose."""
