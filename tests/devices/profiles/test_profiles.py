"""Device profiles: those that come along pass the reader that users get, and every slip has its message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeplast.errors import EdgeplastError, InputError, UsageError
from edgeplast_devices.device_profiles import Profile, all_profiles, profile_defaults, read_profile

GOOD = """
title = "My camera"
memory = "2GB"
cores = 4
budget = "200MiB"
threads = 2
provider = "cpu"
install = "pip install 'edgeplast[stock]'"
source = "its label"
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "camera.toml"
    path.write_text(GOOD)
    return path


def test_every_device_of_the_issue_is_there() -> None:
    names = " ".join(p.name for p in all_profiles())
    for name in ("orin-nano-4gb", "orin-nano-8gb", "orin-nx", "agx-orin", "xavier-nx", "jetson-nano",
                 "raspberry-pi-4", "raspberry-pi-5", "x86-laptop", "mini-pc", "apple-silicon-laptop"):  # fmt: skip
        assert name in names


@pytest.mark.parametrize("profile", all_profiles(), ids=lambda p: p.name)
def test_profiles_are_consistent(profile: Profile) -> None:
    assert profile_defaults(profile.name) == profile
    assert 0.9 < profile.budget_bytes * 8 / profile.memory_bytes < 1.1, "an eighth of the memory"
    assert profile.provider == "cpu" and profile.threads <= profile.cores
    assert profile.install == "pip install 'edgeplast[stock]'"
    assert len(profile.source) > 40 and profile.recognise.architecture and profile.recognise.system
    assert re.search(r"\d", profile.title) or profile.recognise.architecture != "aarch64"


def test_marks_are_unique() -> None:
    marks = [mark for p in all_profiles() for mark in p.recognise.compatible]
    assert len(set(marks)) == len(marks)


def test_a_users_own_file_works_the_same(mine: Path) -> None:
    profile = profile_defaults(str(mine))
    assert (profile.name, profile.memory_bytes, profile.budget_bytes) == ("camera", 2 * 10**9, 200 << 20)
    assert profile.threads == 2 and profile.recognise.compatible == ()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("budget =", "buget =", r"Unknown key 'buget'\. Did you mean 'budget'\? Known: title, memory, cores"),
        ("cores = 4\n", "", r"1 keys are missing, for example cores = 6"),
        ('"2GB"', '"2 gigs"', r"Cannot read '2 gigs' as an amount of bytes\. Give a positive number with a unit"),
        ('"2GB"', "2000000000", r'memory = 2000000000 has no unit\. Write it as in memory = "8GB"'),
        ("cores = 4", 'cores = "four"', r"cores: Expected `int`, got `str`\. Write it as in cores = 6"),
        ("cores = 4", "cores = 0", r"1 to 1024 cores; 0 were given"),
        ("threads = 2", "threads = 8", r"8 threads on 4 cores: give 1 to 4"),
        ('"cpu"', '"cudda"', r"Unknown provider 'cudda'\. Did you mean 'cuda'\? Known: cpu, cuda, tensorrt"),
        ('"200MiB"', '"2GB"', r"The budget must be less than the memory"),
        ('title = "My camera"', "title = My camera", r"Invalid value \(at line 2, column 9\)"),
        (
            "threads = 2",
            "threads = 2\nrecognise = 7",
            r"recognise: Expected `object`, got `int`\. Write it as in recognise = a table",
        ),
    ],
)  # fmt: skip
def test_every_slip_is_named_with_the_way_out(mine: Path, before: str, after: str, message: str) -> None:
    mine.write_text(GOOD.replace(before, after))
    with pytest.raises(InputError, match=message) as caught:
        read_profile(mine)
    assert str(caught.value).startswith(f"{mine} is not a valid device profile: ")
    assert caught.value.exit_code == 3


def test_a_wrong_mark_is_named(mine: Path) -> None:
    mine.write_text(GOOD + '[recognise]\ncompatibel = ["x"]\n')
    with pytest.raises(InputError, match=r"Unknown key of \[recognise\] 'compatibel'\. Did you mean 'compatible'\?"):
        read_profile(mine)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Unknown device 'raspberry-pi5'\. Did you mean 'raspberry-pi-5'\?.*my\.toml"):
        profile_defaults("raspberry-pi5")
    with pytest.raises(InputError, match=r"Cannot read the device profile .*no\.toml: No such file"):
        profile_defaults(str(tmp_path / "no.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(EdgeplastError, match="Cannot read the device profile"):
        profile_defaults(str(tmp_path / "bytes.toml"))
