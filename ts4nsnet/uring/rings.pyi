# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `rings`, which has nothing for Python; its essay is in its source.
