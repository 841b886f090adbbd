# SPDX-License-Identifier: BSD-3-Clause
"""The build back end (PEP 517, PEP 660): setuptools, which asks for a compiler's tools only where there is a compiler.

ts4nsnet runs without compiled code (the `python` engine). Its compiled engine is Cython, found as `*.pyx` under
`ts4nsnet/`: where there are such files, a C compiler and Python's headers, Cython and python-liburing (for its
declarations: nothing of it is linked or imported) are asked for and they are compiled; elsewhere the same tree installs
as pure Python, and one line says so. `setup.py` beside pyproject.toml lists the extensions through `extensions()`.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, build_meta
from setuptools.build_meta import (  # the hooks that need no change
    build_editable,
    build_sdist,
    build_wheel,
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
# gcc leaves loops over bytes alone at -O2; what Python was built with asks for debug information
COMPILE_ARGUMENTS = ("-O3", "-g0", "-Wno-unused-function")
ROOT = Path(__file__).resolve().parent.parent


def _compiler() -> str | None:
    # CC or what Python itself was built with may carry flags: "gcc -pthread"
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    return shutil.which(command[0])


def _missing() -> str:
    """What is missing to compile with, or nothing."""
    if _compiler() is None:
        return "C compiler (Debian: apt install gcc)"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        return f"{headers}/Python.h (Debian: apt install python3-dev)"
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
    if missing := _missing():
        sys.stderr.write(f"ts4nsnet: no compiled engine, the slow `python` one is used: there is no {missing}\n")
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


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    """What a wheel needs to be built here (PEP 517)."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiled_requirements()]


def get_requires_for_build_editable(config_settings: ConfigSettings = None) -> list[str]:
    """What an editable install needs to be built here (PEP 660)."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiled_requirements()]
