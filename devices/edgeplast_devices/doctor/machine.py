"""Checks of the machine: Python, packages, memory, disk, clock, heat. Pure functions of what was read elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from edgeplast.units import format_bytes, format_seconds
from edgeplast_devices.detection import Recognised
from edgeplast_devices.doctor.findings import Finding, failed, passed, skipped, warned
from edgeplast_devices.placing import NEWEST_TRAINING_PYTHON
from edgeplast_devices.thermals import ThermalState

REQUIRED = ("numpy", "pillow", "psutil", "msgspec", "safetensors")
"""Distributions that every device verb imports."""

_WARM_CELSIUS, _HOT_CELSIUS = 80.0, 95.0
"""A Raspberry Pi slows down from 80 °C on, an Orin and most PCs from 95 to 100 °C."""

_SPARE_BYTES = 64 << 20
"""Disk to leave free beside what is written."""


def check_device(recognised: Recognised) -> Finding:
    """Say which device this is."""
    machine, profile = recognised.machine, recognised.profile
    what = f"{machine.cores} cores, {format_bytes(machine.memory_bytes)}"
    if recognised.exact:
        return passed("device", f"{profile.title}: {what} ({profile.name})", profile=profile.name)
    message = f"{machine.model or machine.architecture}: {what}; not in the list, nearest is {profile.name}"
    return passed("device", message, profile=profile.name)


def check_python(release: tuple[int, int, int], bits: int, architecture: str) -> Finding:
    """Check the interpreter's version and word size."""
    text = f"{'.'.join(map(str, release))}, {bits}-bit on {architecture}"
    if release < (3, 10):
        return failed("python", f"{text}: edgeplast needs 3.10", "Install a newer one: uv python install 3.12")
    if bits != 64:
        return failed("python", f"{text}: onnxruntime has no 32-bit wheels", "Install a 64-bit system and Python.")
    return passed("python", text)


def check_packages(versions: Mapping[str, str | None], runtimes: Mapping[str, str], install: str) -> Finding:
    """Check what is installed.

    Args:
        versions: of the distributions in ``REQUIRED``; None where one is missing.
        runtimes: distributions that fill the folder ``onnxruntime``, with their versions.
        install: the command that suits this device.
    """
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        return failed("packages", f"{', '.join(missing)} missing", f"pip install {' '.join(missing)}")
    if not runtimes:
        return failed("packages", "no onnxruntime is installed: nothing can be trained", install)
    names = [f"{name} {number}" for name, number in runtimes.items()]
    if len(runtimes) > 1:
        return failed(
            "packages",
            f"{' and '.join(names)} are installed together; they unpack into the same folder and break each other",
            f"pip uninstall -y {' '.join(runtimes)} && {install}",
        )
    return passed("packages", ", ".join([*names, *(f"{name} {number}" for name, number in versions.items())]))


def suited_install(install: str, release: tuple[int, int, int]) -> str:
    """Return the profile's command, for the stock runtime where this Python has no wheel of the training one."""
    return install if release[:2] <= NEWEST_TRAINING_PYTHON else install.replace("[train]", "[stock]")


def installed_packages() -> dict[str, str | None]:
    """Return the version of each required distribution, None for those that are missing."""
    found: dict[str, str | None] = {}
    for name in REQUIRED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def installed_runtimes() -> dict[str, str]:
    """Return every distribution that fills the folder ``onnxruntime``, whatever its name, with its version."""
    return {name: version(name) for name in sorted(set(packages_distributions().get("onnxruntime", [])))}


def check_memory(budget: int | None, total: int, available: int, group_limit: int | None) -> Finding:
    """Check the budget against what the process may have and what is free now.

    Args:
        budget: bytes; None where none was given.
        total: bytes of the machine.
        available: bytes that are free now.
        group_limit: bytes of the control group; None where there is none.
    """
    most, owner = total, "the machine has"
    if group_limit is not None and group_limit < total:
        most, owner = group_limit, "the control group (container or service) allows"
    state = f"{format_bytes(available)} free of {format_bytes(total)}"
    figures = {"memory_bytes": total, "available_bytes": available, "allowed_bytes": most}
    if budget is None:
        return passed("memory", f"{state}; no budget to check", **figures)
    if budget > most:
        advice = f"Give less than --memory {most >> 20}MiB, or raise the limit."
        message = f"the budget of {format_bytes(budget)} is more than the {format_bytes(most)} that {owner}"
        return failed("memory", message, advice, 4, **figures)
    if budget > available:
        message = f"the budget of {format_bytes(budget)} is more than is free now: {state}"
        return warned("memory", message, "Close other programs, or give less.", **figures)
    return passed("memory", f"{state}; the budget is {format_bytes(budget)}", **figures)


def check_wall(limit: int | None, budget: int | None) -> Finding:
    """Say whether the kernel can enforce the budget (``memory.data_limit``)."""
    if limit is None:
        message = "this system has no hard wall: the budget is planned and watched, not enforced"
        return warned("hard wall", message, "Leave some room between the budget and what the device has.")
    if limit >= 0 and budget is not None and limit < budget:
        message = f"this process may hold only {format_bytes(limit)} (ulimit -d), less than the budget"
        return failed("hard wall", message, f"Raise it (ulimit -d), or give --memory {limit >> 20}MiB.", 4)
    return passed("hard wall", "the kernel can enforce the budget (RLIMIT_DATA)")


def check_swap(total: int, used: int) -> Finding:
    """Say what happens to memory that does not fit."""
    if not total:
        return passed("swap", "none: what does not fit is refused instead of slowed down")
    text = f"{format_bytes(used)} of {format_bytes(total)} in use"
    if used > total / 2:
        return warned("swap", f"{text}: the device is short of memory already", "Close other programs.")
    return passed("swap", text)


def check_disk(folder: Path, free: int, writable: bool, needed: int) -> Finding:
    """Check that an adapted bundle can be written."""
    needed += _SPARE_BYTES
    where = f"{format_bytes(free)} free at {folder}"
    if not writable:
        return failed("disk", f"{folder} cannot be written", "Choose another folder for the output.")
    if free < needed:
        message = f"{where}; an adapted bundle and its checkpoints need {format_bytes(needed)}"
        return failed("disk", message, "Free some space, or write to another disk.")
    return passed("disk", where, free_bytes=free)


def check_clock(now: float, newest: float) -> Finding:
    """Compare the clock with the newest file at hand: boards without a battery wake up in the past."""
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    behind = newest - now
    if behind > 24 * 3600:
        message = f"{date} is {format_seconds(behind)} before files that exist already"
        advice = "Set it (sudo timedatectl set-ntp true): downloads fail and reports carry the wrong date."
        return warned("clock", message, advice)
    return passed("clock", date)


def check_thermals(state: ThermalState) -> Finding:
    """Say how warm the device is and whether it slows down."""
    hottest = state.hottest_celsius
    if hottest is None and state.clock_cap_fraction is None and not state.slowed_by:
        return skipped("heat", "no sensors are shown here")
    parts = [] if hottest is None else [f"{hottest:.0f} °C"]
    if state.power_watts is not None:
        parts.append(f"{state.power_watts:.1f} W")
    if state.clock_cap_fraction is not None:
        parts.append(f"clock up to {state.clock_cap_fraction:.0%} of its maximum")
    if state.throttle_events:
        parts.append(f"slowed down {state.throttle_events} times since it was switched on")
    text = ", ".join(parts)
    if state.slowed_by:
        message = f"the processor is slowed down now by {', '.join(state.slowed_by)}" + (f" ({text})" if text else "")
        return warned("heat", message, "Cool it, or give it a stronger power supply: training will be slower.")
    if hottest is not None and hottest >= _WARM_CELSIUS:
        verb = "will slow down" if hottest >= _HOT_CELSIUS else "may slow down"
        return warned("heat", f"{text}: it {verb} under load", "Let it cool, or add a fan, before a long adaptation.")
    if state.clock_cap_fraction is not None and state.clock_cap_fraction < 0.95:
        return warned("heat", text, "A power mode holds it back; on a Jetson: sudo nvpmodel -q shows it.")
    return passed("heat", text)
