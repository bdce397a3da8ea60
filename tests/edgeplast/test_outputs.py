"""Outputs are whole or absent, have one writer, and nothing that lies in their way is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeplast import locking
from edgeplast.errors import InputError, UsageError
from edgeplast.outputs import (
    OWN_FOLDER,
    building_folder,
    claim,
    finish_folder,
    holding_outputs,
    only_writer,
    refuse_existing,
    refuse_mount,
    refuse_unmovable,
)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_other_errors_of_the_system_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), building_folder(tmp_path / "a"):
        tmp_path.open("rb")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with building_folder(tmp_path / "up" / "a") as folder:
        (folder / "x").write_bytes(b"x")
        assert set(entries(tmp_path / "up")) == {folder.name, ".a.lock"}
    assert entries(tmp_path / "up") == ["a"] and (tmp_path / "up" / "a" / "x").read_bytes() == b"x"


def _own(path: Path, content: bytes = b"old") -> Path:
    path.mkdir()
    (path / OWN_FOLDER).write_bytes(content)
    return path


def test_force_replaces_a_folder_that_edgeplast_wrote(tmp_path: Path) -> None:
    target = _own(tmp_path / "a")
    with pytest.raises(UsageError, match="--force"), building_folder(target):
        pass
    with building_folder(target, force=True) as folder:
        (folder / "new").write_bytes(b"new")
        assert (target / OWN_FOLDER).read_bytes() == b"old"
    assert entries(target) == ["new"] and entries(tmp_path) == ["a"]


def test_an_error_while_replacing_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = _own(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt), building_folder(target, force=True) as folder:
        (folder / "new").write_bytes(b"new")
        raise KeyboardInterrupt
    assert entries(tmp_path) == ["a"] and entries(target) == [OWN_FOLDER]
    rename = Path.rename

    def refuse(self: Path, other: Path) -> Path:
        if self.suffix == ".partial" and not target.exists():
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="cannot be written"), building_folder(target, force=True):
        pass
    assert entries(tmp_path) == ["a"] and entries(target) == [OWN_FOLDER]


def test_force_does_not_delete_what_edgeplast_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="--force does not delete"), building_folder(tmp_path, force=True):
        pass
    assert entries(tmp_path) == ["holiday.jpg"]


def test_what_is_free_and_what_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    refuse_existing(tmp_path / "empty", force=False)
    refuse_existing(tmp_path / "new", force=False)
    refuse_existing(tmp_path / "file", force=True)
    with pytest.raises(UsageError, match="exists already"):
        refuse_existing(tmp_path / "file", force=False)
    with building_folder(tmp_path / "empty") as folder:
        (folder / "x").write_bytes(b"x")
    assert entries(tmp_path / "empty") == ["x"]


HOLD = (
    "import sys; from pathlib import Path; from edgeplast.outputs import only_writer\n"
    "with only_writer(Path(sys.argv[1])):\n"
    "    print('held', flush=True); input()\n"
)


class TestOneWriter:
    def holder(self, output: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        return process

    def test_the_second_process_is_told_who_is_at_work(self, tmp_path: Path) -> None:
        holder = self.holder(tmp_path / "a")
        says = (
            rf"a is being written by process {holder.pid} on '{re.escape(socket.gethostname())}', since 20\d\d-.*"
            r"Wait until it is done, stop it, or choose another output\."
        )
        with pytest.raises(UsageError, match=says) as caught, only_writer(tmp_path / "a"):
            pass
        assert caught.value.exit_code == 2
        with pytest.raises(UsageError, match="is being written"), building_folder(tmp_path / "a"):
            pass
        with only_writer(tmp_path / "b"):  # another output is free
            pass
        holder.communicate(b"\n")
        with only_writer(tmp_path / "a"):
            pass
        assert entries(tmp_path) == []

    def test_the_lock_of_a_killed_process_is_free(self, tmp_path: Path) -> None:
        holder = self.holder(tmp_path / "a")
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        assert entries(tmp_path) == [".a.lock"]
        with only_writer(tmp_path / "a"):
            assert json.loads((tmp_path / ".a.lock").read_text())["pid"] == os.getpid()
        assert entries(tmp_path) == []

    def test_links_and_other_spellings_are_the_same_output(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("a")
        (tmp_path / "deep").mkdir()
        holder = self.holder(tmp_path / "a")
        for name in ("link", "deep/../a", "./a"):
            with pytest.raises(UsageError, match="is being written"), only_writer(tmp_path / name):
                pass
        holder.communicate(b"\n")

    def test_threads_exclude_each_other_and_one_may_take_it_twice(self, tmp_path: Path) -> None:
        told: list[str] = []

        def other() -> None:
            try:
                with only_writer(tmp_path / "a"):
                    told.append("written")
            except UsageError as error:
                told.append(str(error))

        with only_writer(tmp_path / "a"), only_writer(tmp_path / "a"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert f"process {os.getpid()} on" in told[0]
        other()
        assert told[1] == "written"

    def test_a_command_holds_what_it_claimed_until_it_ends(self, tmp_path: Path) -> None:
        told: list[str] = []

        def other() -> None:
            try:
                with building_folder(tmp_path / "a") as folder:
                    (folder / "x").write_bytes(b"x")
            except UsageError as error:
                told.append(str(error))

        with holding_outputs():
            claim(tmp_path / "a", force=False, folder=True)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            with building_folder(tmp_path / "a"):  # its own
                pass
        assert "is being written" in told[0] and entries(tmp_path) == ["a"]
        claim(tmp_path / "b", force=False)
        with pytest.raises(UsageError, match="exists already"):
            (tmp_path / "b").write_text("")
            claim(tmp_path / "b", force=False)

    def test_processes_write_one_at_a_time(self, tmp_path: Path) -> None:
        """Each that gets the lock looks whether somebody else has it: files that appear and vanish fool nobody."""
        script = (
            "import os, sys; from pathlib import Path; from edgeplast.outputs import only_writer\n"
            "from edgeplast.errors import UsageError\n"
            "inside, got = Path(sys.argv[1] + '.inside'), 0\n"
            "for _ in range(400):\n"
            "    try:\n"
            "        with only_writer(Path(sys.argv[1])):\n"
            "            os.close(os.open(inside, os.O_CREAT | os.O_EXCL)); inside.unlink(); got += 1\n"
            "    except UsageError: pass\n"
            "print(got)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "a")]
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        results = [writer.communicate() for writer in writers]
        assert all(writer.returncode == 0 for writer in writers), results
        assert all(int(out) > 0 for out, _ in results) and entries(tmp_path) == []

    def test_a_file_system_without_locks_is_written_as_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        def none(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", none)
        with only_writer(tmp_path / "a"):
            pass

    def test_a_lock_without_a_name_in_it(self, tmp_path: Path) -> None:
        handle = locking.take(tmp_path / ".a.lock")
        os.ftruncate(handle, 0)
        with (
            pytest.raises(UsageError, match="by a process that has not said its name yet"),
            only_writer(tmp_path / "a"),
        ):
            pass
        locking.give_back(handle, tmp_path / ".a.lock")


class TestInTheWay:
    def test_a_folder_that_appears_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="exists already"), building_folder(tmp_path / "a") as folder:
            (folder / "new").write_bytes(b"new")
            _own(tmp_path / "a")
        assert (tmp_path / "a" / OWN_FOLDER).read_bytes() == b"old"

    def test_with_force_neither_where_it_is_somebody_elses(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--force does not delete"), building_folder(tmp_path / "a", force=True):
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "holiday.jpg").write_bytes(b"x")
        assert entries(tmp_path) == ["a"] and entries(tmp_path / "a") == ["holiday.jpg"]

    def test_a_writer_killed_while_it_replaced_gives_the_old_folder_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            pass

        target, rename = _own(tmp_path / "a"), Path.rename
        made = tmp_path / "made"
        made.mkdir()

        def killed(self: Path, other: Path) -> Path:
            if self == made and not target.exists():
                raise Killed
            return rename(self, other)

        monkeypatch.setattr(Path, "rename", killed)
        replace, moved = Path.replace, []

        def dead(self: Path, other: Path) -> Path:
            if moved:
                raise Killed
            moved.append(other)
            return replace(self, other)

        monkeypatch.setattr(Path, "replace", dead)
        with pytest.raises(Killed):
            finish_folder(made, target, force=True)
        monkeypatch.undo()
        assert entries(tmp_path) == [".a.old", "made"]
        with only_writer(target):
            assert (target / OWN_FOLDER).read_bytes() == b"old"
        made.rename(tmp_path / ".a.12345678.partial")  # what a killed building_folder leaves
        with only_writer(target):
            assert entries(tmp_path) == [".a.lock", "a"]

    def test_a_mount_point_is_refused_before_any_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "volume").mkdir()
        says = r"volume is a mount point \(a volume, a drive\)\..*Give a folder in it: .*volume/adapted"
        monkeypatch.setattr(os.path, "ismount", lambda _: True)
        with pytest.raises(UsageError, match=says):
            refuse_mount(tmp_path / "volume")
        with pytest.raises(UsageError, match=says), building_folder(tmp_path / "volume"):
            raise AssertionError
        monkeypatch.undo()

        def busy(*_: object) -> None:
            raise OSError(errno.EBUSY, "Device or resource busy")

        monkeypatch.setattr(Path, "rename", busy)
        with pytest.raises(UsageError, match=says), building_folder(tmp_path / "volume"):
            raise AssertionError
        assert entries(tmp_path) == ["volume"]

    def test_the_trial_changes_nothing(self, tmp_path: Path) -> None:
        target = _own(tmp_path / "full")
        (tmp_path / "empty").mkdir(mode=0o750)
        for name in ("full", "empty", "new"):
            refuse_unmovable(tmp_path / name)
        assert entries(tmp_path) == ["empty", "full"] and entries(target) == [OWN_FOLDER]
        assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o750

    def test_a_link_leads_to_the_output(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("real")
        with building_folder(tmp_path / "link") as folder:
            (folder / "x").write_bytes(b"x")
        assert entries(tmp_path) == ["link", "real"] and (tmp_path / "link").is_symlink()

    def test_a_disk_without_permissions_takes_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "chmod", refuse)
        with building_folder(tmp_path / "a") as folder:
            (folder / "x").write_bytes(b"x")
        assert entries(tmp_path / "a") == ["x"]
