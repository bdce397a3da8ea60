"""What is known of a device before it is at hand: memory, cores, and the defaults that fit it; one TOML file each.

The files in ``profiles/`` and a user's own (``--device my.toml``) go through the same reader. Sizes are written with
their unit (``"8GB"``); figures carry the document they come from.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from edgeplast.errors import EdgeplastError, InputError, one_of
from edgeplast.stamps import shortened
from edgeplast.units import format_bytes, parse_bytes
from edgeplast_devices.providers import PROVIDERS

THIS_MACHINE = "auto"
"""The name under which ``--device`` asks for the profile of the machine that it runs on."""

MOST_PROFILE_BYTES = 8 << 10

_FOLDER = Path(__file__).parent / "profiles"

_EXAMPLES = {
    "title": '"Jetson Orin Nano 8GB"',
    "memory": '"8GB"',
    "cores": "6",
    "budget": '"1GiB"',
    "threads": "6",
    "provider": '"cpu"',
    "install": "\"pip install 'edgeplast[stock]'\"",
    "source": '"the data sheet, page 1"',
    "note": '"what a user should know"',
    "trusted": '"keys/"',
    "sign": '"device.key"',
    "recognise": 'a table: [recognise] compatible = ["p3767-0003"]',
}
"""Every key of a profile, with a value that would be right."""


class Marks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By what a machine is recognised; empty marks say nothing.

    Attributes:
        compatible: parts of an entry of ``/proc/device-tree/compatible``: the board's own number or name.
        chip: the entry of the chip, by which a board that is not listed finds its nearest relative.
        system: as Python's ``platform.system()`` names it: ``Linux``, ``Darwin``, ``Windows``.
        architecture: as ``platform.machine()`` names it: ``aarch64``, ``x86_64``, ``arm64``.
        chassis: SMBIOS chassis types, from ``/sys/class/dmi/id/chassis_type`` (DMTF DSP0134, 7.4.1).
    """

    compatible: tuple[str, ...] = ()
    chip: str = ""
    system: str = ""
    architecture: str = ""
    chassis: tuple[int, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One device and the defaults that suit it.

    Attributes:
        name: the file's name without its ending; what ``--device`` takes.
        title: for people.
        memory_bytes: as sold; a little less is usable, see ``edgeplast devices --detect``.
        cores: of the CPU.
        budget_bytes: default of ``--memory``: an eighth of the memory, in powers of two, so that the system, a
            desktop and a camera keep the rest.
        threads: default of ``--threads``.
        provider: default of ``--provider``.
        install: what to type on the device.
        source: where the figures come from.
        note: what else a user should know.
        trusted: default of ``--trusted``: a file or folder of public keys, read from the profile's own folder on.
        sign: default of ``--sign``: the device's private key, likewise.
        recognise: see :class:`Marks`.
    """

    name: str
    title: str
    memory_bytes: int
    cores: int
    budget_bytes: int
    threads: int
    provider: str
    install: str
    source: str
    note: str = ""
    trusted: str = ""
    sign: str = ""
    recognise: Marks = Marks()

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise one_of("provider", self.provider, PROVIDERS)
        if not 1 <= self.cores <= 1024:
            raise InputError(f"A device has 1 to 1024 cores; {self.cores} were given.")
        if not 1 <= self.threads <= self.cores:
            raise InputError(f"{self.threads} threads on {self.cores} cores: give 1 to {self.cores}.")
        if self.budget_bytes >= self.memory_bytes:
            raise InputError("The budget must be less than the memory: the system needs some of it.")


def all_profiles() -> tuple[Profile, ...]:
    """Return the profiles that come with edgeplast, by name."""
    return tuple(read_profile(path) for path in sorted(_FOLDER.glob("*.toml")))


def profile_defaults(name: str) -> Profile:
    """Return the profile that ``--device NAME`` stands for.

    Args:
        name: of a profile, the path of a TOML file, or ``auto`` for this machine (its own memory and cores, where
            they are less than the profile's).

    Raises:
        UsageError: there is no profile of that name.
        InputError: a file cannot be read, or is not a valid profile.
    """
    if name == THIS_MACHINE:
        from edgeplast_devices.detection import recognise, this_machine

        return recognise(this_machine()).fitted
    if name.endswith(".toml") or "/" in name or "\\" in name:
        return read_profile(Path(name))
    names = tuple(path.stem for path in sorted(_FOLDER.glob("*.toml")))
    if name not in names:
        raise one_of("device", name, (THIS_MACHINE, *names, "or a file: my.toml"))
    return read_profile(_FOLDER / f"{name}.toml")


def read_profile(path: Path) -> Profile:
    """Read one profile.

    Raises:
        InputError: the file is missing, no TOML, has a key that does not exist or lacks one, or a value is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_PROFILE_BYTES + 1)
        if len(data) > MOST_PROFILE_BYTES:
            raise InputError(
                f"The device profile {path} is larger than {format_bytes(MOST_PROFILE_BYTES)}, which no profile is."
            )
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:  # no such file, no name of a file, no UTF-8
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read the device profile {shortened(path)}: {reason}.") from error
    try:
        return _profile(path.stem, _toml(text), path.parent)
    except RecursionError as error:
        raise InputError(f"{path} is not a valid device profile: its values are nested too deep.") from error
    except (EdgeplastError, ValueError) as error:  # tomllib's and msgspec's are ValueErrors
        raise InputError(f"{path} is not a valid device profile: {str(error).rstrip('.')}.") from error


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _profile(name: str, written: dict[str, Any], folder: Path) -> Profile:
    _check_keys("key", written, tuple(_EXAMPLES), optional=("note", "trusted", "sign", "recognise"))
    marks = written.get("recognise", {})
    if isinstance(marks, dict):
        _check_keys("key of [recognise]", marks, Marks.__struct_fields__, optional=Marks.__struct_fields__)
    sizes = {}
    for key in ("memory", "budget"):
        if not isinstance(written[key], str):
            raise InputError(f"{key} = {written[key]!r} has no unit. Write it as in {key} = {_EXAMPLES[key]}")
        sizes[f"{key}_bytes"] = parse_bytes(written[key])
    rest = {key: value for key, value in written.items() if key not in ("memory", "budget")}
    for key in ("trusted", "sign"):
        if isinstance(rest.get(key), str):
            rest[key] = str(folder / rest[key])
    try:
        return msgspec.convert({"name": name, **rest, **sizes}, Profile)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        key = place.rstrip("`")
        example = _EXAMPLES.get(key.partition(".")[0].partition("[")[0])
        raise InputError(f"{key}: {reason}. Write it as in {key} = {example}" if example else reason) from error


def _check_keys(what: str, given: Mapping[str, Any], known: tuple[str, ...], *, optional: tuple[str, ...]) -> None:
    """Refuse keys that nobody reads (most often a slip of the pen), and name all that are missing."""
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"Unknown {what} {key!r}.{hint} Known: {', '.join(known)}")
    missing = [key for key in known if key not in given and key not in optional]
    if missing:
        lines = ", ".join(f"{key} = {_EXAMPLES[key]}" for key in missing)
        raise InputError(f"{len(missing)} keys are missing, for example {lines}")
