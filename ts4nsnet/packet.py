# SPDX-License-Identifier: BSD-3-Clause
"""Views of IP, UDP and TCP headers."""
