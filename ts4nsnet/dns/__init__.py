# SPDX-License-Identifier: BSD-3-Clause
"""MagicDNS: names of the tailnet, and whom to ask for all others.

    config   what the coordination server says about it, as values

Source: notes control.md 7, dns-filter.md part A.
"""

from ts4nsnet.dns.config import Config, ExtraRecord, Resolver, normal_name

__all__ = ["Config", "ExtraRecord", "Resolver", "normal_name"]
