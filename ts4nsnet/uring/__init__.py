# SPDX-License-Identifier: BSD-3-Clause
"""The engine: a packet's way between TUN and UDP."""
