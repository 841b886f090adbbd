# SPDX-License-Identifier: BSD-3-Clause
"""A plan survives its way through a command line."""

import pytest

from ts4nsnet.keeper import Plan
from ts4nsnet.netns import Target


@pytest.mark.parametrize(
    "plan",
    [
        Plan(Target(7), "web", "/run/ts4nsnet"),
        Plan(
            Target("/run/netns/web", userns="/proc/7/ns/user"),
            *("web", "/run/ts4nsnet", "0c1d", "eth7", 41641, 3, 4, "/run/api.sock", 1.5),
        ),
    ],
    ids=["least", "most"],
)
def test_a_plan_is_read_as_it_was_written(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan
