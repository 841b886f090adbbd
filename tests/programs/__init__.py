# SPDX-License-Identifier: BSD-3-Clause
"""Programs that tests start in namespaces, made of the project's parts."""
