# SPDX-License-Identifier: BSD-3-Clause
"""The WireGuard protocol, sans-I/O."""
