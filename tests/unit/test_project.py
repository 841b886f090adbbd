# SPDX-License-Identifier: BSD-3-Clause
"""The habits of this project that a machine can check: what stands where, and that docs/map.md tells the truth."""

import ast
import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SPDX = "# SPDX-License-Identifier: BSD-3-Clause"
MAX_EXPORTS = 12  # more than that is no door but a wall with holes
# packages and modules that know no I/O: docs and tests may import them without an event loop
PROTOCOLS = ("ts4nsnet.wireguard", "ts4nsnet.noise", "ts4nsnet.packet", "ts4nsnet.keys")

MODULES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "ts4nsnet").rglob("*.py"))
PACKAGES = [str(Path(module).parent).replace("/", ".") for module in MODULES if module.endswith("__init__.py")]


@pytest.mark.parametrize("module", MODULES)
def test_module_starts_with_its_licence_and_its_essay(module: str) -> None:
    lines = (ROOT / module).read_text().splitlines()
    assert lines[0] == SPDX
    assert lines[1].startswith(('"""', 'r"""'))


@pytest.mark.parametrize("package", PACKAGES)
def test_package_exports_little_and_documents_it(package: str) -> None:
    module = importlib.import_module(package)
    exported = getattr(module, "__all__", [])
    assert len(exported) <= MAX_EXPORTS
    assert [name for name in exported if not documented(name, getattr(module, name))] == []


def documented(name: str, value: object) -> bool:
    """Whether somebody has written about it; a dataclass without a docstring has "Name(field: …)" as one."""
    text = value.__doc__ or ""
    return bool(text) and not text.startswith(f"{name}(")


def test_protocols_leave_the_event_loop_out() -> None:
    program = f"import sys, {', '.join(PROTOCOLS)}; sys.exit('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


def test_changelog_begins_with_what_is_unreleased() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased"


@dataclass(frozen=True)
class Row:
    """A row of docs/map.md."""

    behaviour: str
    files: list[str]
    tests: list[str]
    source: str


def rows() -> list[Row]:
    """The rows below the table's head; cells with several names separate them by commas."""
    lines = [line for line in (ROOT / "docs/map.md").read_text().splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [Row(behaviour, names(files), names(tests), source) for behaviour, files, tests, source in table]


def names(cell: str) -> list[str]:
    return [name.strip(" `") for name in cell.split(",")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.behaviour)
def test_row_of_the_map_resolves(row: Row) -> None:
    assert row.behaviour
    assert row.source
    assert [name for name in row.files if not (ROOT / name).is_file()] == []
    assert [name for name in row.tests if not is_test(name)] == []


def is_test(name: str) -> bool:
    """Whether "tests/unit/test_x.py::test_y" is there."""
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    # a state machine's test case is assigned to a name
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return function in functions | assigned


def test_map_would_show_what_is_gone() -> None:
    assert is_test("tests/unit/test_project.py::test_row_of_the_map_resolves")
    assert not is_test("tests/unit/test_project.py::test_that_was_renamed")
    assert not is_test("tests/unit/test_gone.py::test_row_of_the_map_resolves")
