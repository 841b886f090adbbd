# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `arena`, which has nothing for Python; its essay is in its source.
