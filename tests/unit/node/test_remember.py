# SPDX-License-Identifier: BSD-3-Clause
"""Settings of running containers: kept, found again by the container's id, forgotten; never somebody else's."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ts4nsnet.node import remember
from ts4nsnet.node.settings import Settings
from ts4nsnet.node.statefile import Unsafe


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("web", exit_node="exit", container="0123abcd", runtime_folder=str(tmp_path / "ts4nsnet"))


def recall(settings: Settings, container: str | None = None) -> Settings | None:
    return remember.recall(Path(settings.runtime_folder), settings.container if container is None else container)


def files(settings: Settings) -> list[Path]:
    return list(Path(settings.runtime_folder).iterdir())


def test_what_was_kept_is_found(settings: Settings) -> None:
    remember.keep(settings)
    assert recall(settings) == settings
    assert recall(settings, "another") is None
    (file,) = files(settings)
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_last_start_counts(settings: Settings) -> None:
    remember.keep(settings)
    remember.keep(replace(settings, hostname="db"))
    found = recall(settings)
    assert found is not None
    assert found.hostname == "db"
    assert len(files(settings)) == 1


def test_what_is_forgotten_leaves_nothing(settings: Settings) -> None:
    remember.keep(settings)
    remember.forget(settings)
    remember.forget(settings)
    assert recall(settings) is None
    assert files(settings) == []


def test_another_starts_settings_are_not_forgotten(settings: Settings) -> None:
    remember.keep(settings)
    remember.forget(replace(settings, hostname="db"))
    assert recall(settings) == settings


def test_without_an_id_nothing_is_kept(settings: Settings) -> None:
    nameless = replace(settings, container="")
    remember.keep(nameless)
    remember.forget(nameless)
    assert recall(nameless) is None
    assert not Path(settings.runtime_folder).exists()


def test_looking_makes_no_folder(settings: Settings) -> None:
    assert recall(settings) is None
    assert not Path(settings.runtime_folder).exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"{}", b'{"version": 2, "settings": {}}', b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_none(settings: Settings, data: bytes) -> None:
    remember.keep(settings)
    (file,) = files(settings)
    file.write_bytes(data)
    assert recall(settings) is None
    remember.keep(settings)
    assert recall(settings) == settings


def test_a_file_of_another_container_is_none(settings: Settings) -> None:
    remember.keep(settings)
    (file,) = files(settings)
    data = file.read_bytes()
    remember.keep(replace(settings, container="another"))
    for other in files(settings):
        other.write_bytes(data)
    assert recall(settings) == settings
    assert recall(settings, "another") is None


def test_a_folder_that_others_may_read_is_refused(settings: Settings) -> None:
    remember.keep(settings)
    Path(settings.runtime_folder).chmod(0o755)
    with pytest.raises(Unsafe):
        recall(settings)


def test_a_start_is_announced_until_it_has_arrived(tmp_path: Path) -> None:
    folder = tmp_path / "ts4nsnet"
    assert not remember.is_announced(folder, "c1")
    remember.announce(folder, "c1")
    assert remember.is_announced(folder, "c1")
    assert not remember.is_announced(folder, "c2")
    remember.arrive(folder, "c1")
    remember.arrive(folder, "c1")
    assert not remember.is_announced(folder, "c1")
    assert list(folder.iterdir()) == []


def test_a_start_that_has_died_is_not_waited_for(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from ts4nsnet.node import remember\n"
        f"remember.announce(Path({str(tmp_path)!r}), 'c1')"
    )
    tmp_path.chmod(0o700)
    subprocess.run([sys.executable, "-c", program], timeout=30, check=True)
    assert len(list(tmp_path.iterdir())) == 1
    assert not remember.is_announced(tmp_path, "c1")
    remember.announce(tmp_path, "c2")  # and is cleaned up by the next one
    assert len(list(tmp_path.iterdir())) == 1
    assert remember.is_announced(tmp_path, "c2")


def test_a_start_without_an_id_is_not_announced(tmp_path: Path) -> None:
    folder = tmp_path / "ts4nsnet"
    remember.announce(folder, "")
    remember.arrive(folder, "")
    assert not remember.is_announced(folder, "")
    assert not folder.exists()


@pytest.mark.parametrize("data", [b"", b"x", b"\xff", b"-1", b"1" * 5000])
def test_an_announcement_that_cannot_be_read_is_none(tmp_path: Path, data: bytes) -> None:
    tmp_path.chmod(0o700)
    remember.announce(tmp_path, "c1")
    (file,) = tmp_path.iterdir()
    file.write_bytes(data)
    assert not remember.is_announced(tmp_path, "c1")
