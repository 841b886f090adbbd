# SPDX-License-Identifier: BSD-3-Clause
"""The faces of ts4nsnet: what a person or a container tool types."""
