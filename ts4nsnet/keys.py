# SPDX-License-Identifier: BSD-3-Clause
"""Key types and their text forms."""
