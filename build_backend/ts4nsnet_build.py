# SPDX-License-Identifier: BSD-3-Clause
"""The build back end (PEP 517, PEP 660): setuptools, which asks for a compiler's tools only where there is a compiler.

ts4nsnet runs without compiled code (the `python` engine). Its compiled engine is Cython, found as `*.pyx` under
`ts4nsnet/`: where there are such files and a C compiler, Cython is asked for and they are compiled; elsewhere the
same tree installs as pure Python. `setup.py` beside pyproject.toml lists the extensions through `extensions()`.
"""

import os
import shutil
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

COMPILED_REQUIREMENTS = ("cython>=3.1",)
ROOT = Path(__file__).resolve().parent.parent


def _compiler() -> str | None:
    # CC or what Python itself was built with may carry flags: "gcc -pthread"
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    return shutil.which(command[0])


def _sources() -> list[Path]:
    return sorted((ROOT / "ts4nsnet").rglob("*.pyx")) if _compiler() else []


def extensions() -> list[Extension]:
    """One extension module per `.pyx`, or none where nothing can be compiled."""
    sources = [path.relative_to(ROOT) for path in _sources()]
    return [Extension(".".join(path.with_suffix("").parts), [str(path)]) for path in sources]


def _compiled_requirements() -> list[str]:
    return list(COMPILED_REQUIREMENTS) if _sources() else []


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    """What a wheel needs to be built here (PEP 517)."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiled_requirements()]


def get_requires_for_build_editable(config_settings: ConfigSettings = None) -> list[str]:
    """What an editable install needs to be built here (PEP 660)."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiled_requirements()]
