# SPDX-License-Identifier: BSD-3-Clause
"""DNS configuration as a value."""

import pytest

from ts4nsnet.dns.config import Config, Resolver, normal_name


@pytest.mark.parametrize(
    ("name", "normal"),
    [("", ""), (".", ""), ("Host.Tail.Example.", "host.tail.example"), ("x", "x"), ("ÄK", "Äk"), ("\ud800.", "\ud800")],
)
def test_names_are_compared_in_lower_case_and_without_the_final_dot(name: str, normal: str) -> None:
    assert normal_name(name) == normal


def test_routes_are_a_copy_that_nobody_can_change() -> None:
    routes = {"example.com": (Resolver("192.0.2.53"),)}
    config = Config(routes=routes)
    routes.clear()
    assert config == Config(routes={"example.com": (Resolver("192.0.2.53"),)})
    with pytest.raises(TypeError):
        config.routes["x"] = ()  # type: ignore[index]
