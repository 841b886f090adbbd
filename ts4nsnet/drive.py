# SPDX-License-Identifier: BSD-3-Clause
"""The one loop that runs the sans-I/O classes on trio, and the clock."""
