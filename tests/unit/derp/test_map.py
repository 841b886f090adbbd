# SPDX-License-Identifier: BSD-3-Clause
"""The relay map as a value: defaults, partial updates, what to dial."""

import pytest

from ts4nsnet.derp.map import Map, Node, Region

LAB = Region(900, "lab", "Lab", (Node("900a", 900, "derp.example.com"),))
FAR = Region(1, "far", "Far away")


def test_regions_come_in_ascending_order_whatever_order_they_were_given_in() -> None:
    assert list(Map.of(LAB, FAR).regions) == [1, 900]


def test_an_empty_map_has_no_regions() -> None:
    assert Map() == Map.of()
    assert not Map().regions


def test_new_regions_replace_the_old_ones_and_keep_the_scores() -> None:
    before = Map.of(LAB, scores={900: 0.5})
    after = before.updated(regions={1: FAR})
    assert list(after.regions) == [1]
    assert after.region_scores == {900: 0.5}
    assert list(before.regions) == [900]


def test_new_scores_replace_the_old_ones_and_keep_the_regions() -> None:
    before = Map.of(LAB, scores={900: 0.5})
    after = before.updated(region_scores={})
    assert after.regions == before.regions
    assert after.region_scores == {}


def test_scores_that_are_not_positive_are_ignored() -> None:
    assert Map.of(LAB, scores={900: 0.0, 1: -1.0, 2: 3.0}).region_scores == {2: 3.0}


def test_an_update_of_nothing_is_the_same_map() -> None:
    before = Map.of(LAB)
    assert before.updated() is before


def test_maps_of_equal_regions_are_equal() -> None:
    assert Map.of(LAB, FAR) == Map.of(FAR, LAB)
    assert Map.of(LAB) != Map.of(FAR)


@pytest.mark.parametrize(
    ("host_name", "ipv4", "ipv6", "over_4", "over_6"),
    [
        ("derp.example.com", "", "", "derp.example.com", "derp.example.com"),
        ("derp.example.com", "192.0.2.1", "", "192.0.2.1", "derp.example.com"),
        ("derp.example.com", "192.0.2.1", "none", "192.0.2.1", None),
        ("derp.example.com", "none", "2001:db8::1", None, "2001:db8::1"),
        ("192.0.2.1", "", "", "192.0.2.1", None),
        ("2001:db8::1", "", "", None, "2001:db8::1"),
        ("192.0.2.1", "192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::1"),
        ("derp.example.com", "2001:db8::1", "192.0.2.1", None, None),
        ("", "192.0.2.1", "", "192.0.2.1", None),
    ],
)
def test_what_to_dial_in_each_family(host_name: str, ipv4: str, ipv6: str, over_4: str, over_6: str) -> None:
    node = Node("900a", 900, host_name, ipv4=ipv4, ipv6=ipv6)
    assert node.dial_host(4) == over_4
    assert node.dial_host(6) == over_6
