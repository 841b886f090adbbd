# SPDX-License-Identifier: BSD-3-Clause
"""The build back end (PEP 517, PEP 660): setuptools, which asks for a compiler's tools only where there is a compiler.

ts4nsnet runs without compiled code (the `python` engine). Its compiled engine is Cython, found as `*.pyx` under
`ts4nsnet/`: where there are such files and what they are compiled with, Cython and python-liburing (for its
declarations: nothing of it is linked or imported) are asked for and they are compiled; elsewhere the same tree installs
as pure Python, and one line says so. `setup.py` beside pyproject.toml lists the extensions through `extensions()`.

The choice is made before anything is asked for: once python-liburing, which comes as source, does not compile, pip
gives up. So the compiler is tried out, not only looked for: gcc without the C library's headers is common.

docs/building.md says how wheels are made.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

from setuptools import Extension, build_meta
from setuptools.build_meta import (  # the hooks that need no change
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "extensions",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ConfigSettings = dict[str, Any] | None

COMPILED_REQUIREMENTS = ("cython>=3.1", "liburing==2024.5.3")
# gcc leaves loops over bytes alone at -O2; what Python was built with asks for debug information. No -march: a wheel
# runs on other machines than the one it was built on
COMPILE_ARGUMENTS = ("-O3", "-g0", "-Wno-unused-function")
ROOT = Path(__file__).resolve().parent.parent
CURE = "for the fast one, install what compiles it (Debian: gcc libc6-dev make python3-dev), then ts4nsnet again"


def _compiler() -> list[str]:
    # CC or what Python itself was built with may carry flags: "gcc -pthread"
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()


@functools.cache
def _missing() -> str:
    """What is missing to compile with, or nothing."""
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        return f"C compiler ({compiler[0]})"
    if shutil.which("make") is None:  # python-liburing's build runs it
        return "make"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        return f"{headers}/Python.h"
    command = [*compiler, f"-I{headers}", "-fsyntax-only", "-x", "c", "-"]
    tried = subprocess.run(  # noqa: S603  the builder's own compiler
        command, input="#include <Python.h>\n", capture_output=True, text=True, check=False
    )
    if tried.returncode:
        why = next((line for line in tried.stderr.splitlines() if "error" in line), f"exit code {tried.returncode}")
        return f"C compiler that compiles Python.h ({why.strip()})"
    return ""


def _sources() -> list[Path]:
    return [] if _missing() else sorted((ROOT / "ts4nsnet").rglob("*.pyx"))


def _include_dirs() -> list[str]:
    # python-liburing's declarations name the header as '../include/liburing.h'
    spec = importlib.util.find_spec("liburing")
    package = Path(spec.origin).parent if spec and spec.origin else None
    return [str(package / "lib"), str(package / "include")] if package else []


def extensions() -> list[Extension]:
    """One extension module per `.pyx`, or none where nothing can be compiled."""
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            include_dirs=_include_dirs(),
            extra_compile_args=list(COMPILE_ARGUMENTS),
            define_macros=[("_GNU_SOURCE", "1")],
        )
        for path in (source.relative_to(ROOT) for source in _sources())
    ]


def _compiled_requirements() -> list[str]:
    return list(COMPILED_REQUIREMENTS) if _sources() else []


def _say_which_engine() -> None:
    """One line, where there will be no compiled engine.

    pip shows what a build says only when asked to (-v) or when it failed, so the user's terminal, if there is one, is
    told as well.
    """
    if not (missing := _missing()):
        return
    line = f"ts4nsnet: no compiled engine, the slow `python` one is used: there is no {missing}; {CURE}\n"
    sys.stderr.write(line)
    if not sys.stderr.isatty():
        with suppress(OSError), open("/dev/tty", "w") as terminal:  # pip's line is not at its end yet
            terminal.write(f"\n{line}")


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    """What a wheel needs to be built here (PEP 517)."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiled_requirements()]


def get_requires_for_build_editable(config_settings: ConfigSettings = None) -> list[str]:
    """What an editable install needs to be built here (PEP 660)."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiled_requirements()]


def build_wheel(wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: Any = None) -> str:
    """Build a wheel, with a compiled engine or without (PEP 517); its name is returned."""
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    _say_which_engine()
    return name


def build_editable(wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: Any = None) -> str:
    """Build what an editable install unpacks, likewise (PEP 660); its name is returned."""
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    _say_which_engine()
    return name
