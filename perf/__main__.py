# SPDX-License-Identifier: BSD-3-Clause
"""`python -m perf [name …]`: run the benchmarks of those names, or all of them.

A benchmark is a module beside this one with a `main(arguments)` that prints a table.
"""

import sys
from importlib import import_module
from pkgutil import iter_modules

import perf


def main(names: list[str]) -> int:
    """Run benchmarks; returns the exit status."""
    known = sorted(module.name for module in iter_modules(perf.__path__) if not module.name.startswith("_"))
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"perf: no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        import_module(f"perf.{name}").main([])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
