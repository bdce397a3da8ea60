"""Files and folders that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeplast.errors import DiskFullError, InputError, UsageError
from edgeplast.files import disk_errors, write_bytes, writing
from edgeplast.outputs import building_folder


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.txt"
    with writing(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new" and entries(target.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    with pytest.raises(error), writing(target) as file:
        file.write(b"new")
        raise error
    assert target.read_bytes() == b"old" and entries(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_input_error_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with pytest.raises(InputError, match="disk is full"), writing(tmp_path / "a.txt") as file:
        file.write(b"new")
        raise OSError(number, os.strerror(number))
    assert entries(tmp_path) == []


def test_a_disk_that_is_full_at_the_flush_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="disk is full"):
        write_bytes(tmp_path / "a.txt", b"new")
    with pytest.raises(InputError, match="disk is full"), building_folder(tmp_path / "b") as folder:
        (folder / "x").write_bytes(b"x")
    assert entries(tmp_path) == []


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a folder"), writing(tmp_path):
        pass
    with pytest.raises(InputError, match="something above it is a file"), writing(tmp_path / "file" / "a.txt"):
        pass
    with pytest.raises(InputError, match="something above it is a file"), building_folder(tmp_path / "file" / "b"):
        pass


def test_a_killed_writer_leaves_the_old_file_readable(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    script = (
        "import sys; from pathlib import Path; from edgeplast.files import writing\n"
        "with writing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'n' * 100_000); file.flush(); print('half', flush=True)\n"
        "    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert target.read_bytes() == b"old"
    assert all(name == "a.bin" or name.startswith(".") for name in entries(tmp_path))


def test_a_disk_that_is_full_while_weights_are_written_is_no_unexpected_error(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        """As the library raises it: of no type of the system's."""

    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(DiskFullError, match="disk is full"), disk_errors(tmp_path / "out"):
        raise SafetensorError(message)
    with pytest.raises(SafetensorError), disk_errors(tmp_path / "out"):
        raise SafetensorError("Error while deserializing header: HeaderTooLarge")
