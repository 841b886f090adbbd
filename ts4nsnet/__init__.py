# SPDX-License-Identifier: BSD-3-Clause
"""ts4nsnet puts a rootless container onto a Tailscale tailnet as a node of its own.

Where to look: docs/map.md has a row per behaviour. Each package's essay stands in its `__init__.py`.
Importing this package costs nothing: it imports nothing.
"""

__version__ = "0.1.0.dev0"
