# SPDX-License-Identifier: BSD-3-Clause
"""One container's node."""
