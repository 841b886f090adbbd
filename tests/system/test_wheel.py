# SPDX-License-Identifier: BSD-3-Clause
"""A wheel of this checkout, installed where no compiler is found, carries packets.

Built from what `make install` has compiled: the back end finds the modules up to date, so that neither a compiler nor
the network is needed. The tests that are run on it are those of the checkout, copied to a folder without a `ts4nsnet`:
what they import is what was installed.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import ts4nsnet

pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")

ROOT = Path(__file__).resolve().parent.parent.parent
URING = Path("ts4nsnet/uring")
# docs/building.md: manylinux_2_28
OLDEST_LIBC = (2, 28)
BUILD = "import sys; sys.path.insert(0, 'build_backend'); import ts4nsnet_build as backend\nbackend.build_wheel('..')"
SELECTED = (
    "tests/unit/uring/test_pipeline.py",
    "tests/unit/uring/test_port.py",
    "tests/system/test_worker.py::test_it_is_small_and_has_no_rights",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel; what is compiled is put where setuptools would have compiled it to."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    shutil.copytree(ROOT / "ts4nsnet", copy / "ts4nsnet", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(ROOT / "build_backend", copy / "build_backend")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy)
    built = copy / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / URING
    built.mkdir(parents=True)
    for module in (ROOT / URING).glob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
        shutil.copyfile(module, built / module.name)  # without its time: newer than its source
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment of its own into which the wheel was installed without compiler and network.

    It shares this one's other packages, which pip would otherwise fetch.
    """
    folder = tmp_path_factory.mktemp("installed")
    shared = folder / "shared"
    shared.mkdir()
    for entry in Path(sysconfig.get_path("platlib")).iterdir():
        if not entry.name.startswith(("ts4nsnet", "__editable__", "pip")) and entry.suffix != ".pth":
            (shared / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], timeout=60, check=True)
    (site_packages,) = folder.glob("venv/lib/python*/site-packages")
    (site_packages / "shared.pth").write_text(f"{shared}\n")
    python = folder / "venv" / "bin" / "python"
    assert shutil.which("cc", path=str(python.parent)) is None
    run(python, "-m", "pip", "install", "--quiet", "--no-index", str(wheel))
    return python


def run(program: Path, *arguments: str) -> str:
    """What the program says, run where there is nothing, with nothing else on its PATH."""
    done = subprocess.run(
        [program, *arguments],
        cwd=program.parent.parent,
        env={"PATH": str(program.parent), "HOME": str(program.parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_each_compiled_module_and_says_for_which_machine(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        modules = {Path(name).name.partition(".")[0] for name in archive.namelist() if name.endswith(".so")}
        sources = [name for name in archive.namelist() if name.endswith(".c")]
    assert modules == {path.stem for path in (ROOT / URING).glob("*.pyx")}
    assert sources == []
    assert wheel.name.endswith(f"-{sysconfig.get_platform().replace('-', '_')}.whl")
    assert f"-{sys.implementation.cache_tag.replace('cpython-', 'cp')}-" in wheel.name


def test_it_needs_an_old_c_library_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        modules = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    for module in modules:
        versions = [(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", module)]
        assert max(versions) <= OLDEST_LIBC
        assert set(re.findall(rb"\0(lib[\w.+-]+\.so[\w.]*)(?=\0)", module)) == {b"libc.so.6"}


def test_it_installs_without_a_compiler(python: Path) -> None:
    told = run(python, "-c", "import ts4nsnet; print(ts4nsnet.__file__)")
    assert Path(told.strip()).is_relative_to(python.parent.parent)
    assert run(python, "-c", "from ts4nsnet.uring.backends import compiled; print(compiled())") == "True\n"
    assert run(python.with_name("ts4nsnet"), "--version") == f"ts4nsnet {ts4nsnet.__version__}\n"


def test_it_carries_packets(python: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        # mounts of their own: that pytest furnishes /run anew
        ["unshare", "--mount", python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SELECTED],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
