# SPDX-License-Identifier: BSD-3-Clause
"""Hands setuptools the compiled modules; everything else stands in pyproject.toml."""

import os

from setuptools import setup
from ts4nsnet_build import extensions

setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count()}})
