# SPDX-License-Identifier: BSD-3-Clause
"""The netns child: a TUN device inside another process's namespaces."""
