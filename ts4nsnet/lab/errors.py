# SPDX-License-Identifier: BSD-3-Clause
"""What the lab refuses.

LabError           whatever this package raises
├─ Refused         a request that gets an HTTP error: status and one line of text
├─ PolicyError     a policy file that we cannot use, with the place in it
└─ StateError      a state directory that we cannot use
"""

from ts4nsnet.errors import Ts4nsnetError


class LabError(Ts4nsnetError):
    """The root of this package's errors."""


class Refused(LabError):
    """A request that is answered with an HTTP error; the text is for the caller, and holds no secret of his."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class PolicyError(LabError):
    """A policy file that says something we do not understand; the text begins with the place."""


class StateError(LabError):
    """The state directory cannot be used; the text says what to do."""
