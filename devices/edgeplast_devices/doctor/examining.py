"""The order of the checks: cheap ones first, each finding handed on as it is made."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgeplast.bundle import Bundle
from edgeplast.errors import EdgeplastError
from edgeplast.progress import Progress, silent
from edgeplast.trust.trusting import TrustedKeys
from edgeplast.units import format_bytes
from edgeplast_devices.control_groups import group_limit
from edgeplast_devices.detection import Recognised, recognise, this_machine
from edgeplast_devices.doctor import machine as checks
from edgeplast_devices.doctor.findings import (
    Finding,
    failed,
    passed,
    skipped,
    split_advice,
    worst_exit_code,
)
from edgeplast_devices.doctor.jetpack import check_jetpack
from edgeplast_devices.doctor.runtime import attempt, check_bundle_steps, check_runtime
from edgeplast_devices.doctor.trial import ADAPTING, Outcome, Request
from edgeplast_devices.memory import available_bytes, data_limit, swap_bytes
from edgeplast_devices.providers import CPU
from edgeplast_devices.thermals import read_thermals


def examine(
    bundle: Path | None = None,
    *,
    memory_bytes: int | None = None,
    images: int | None = None,
    threads: int | None = None,
    provider: str = CPU,
    times_ways: bool = False,
    load: tuple[str, ...] = (),
    root: Path = Path("/"),
    trusted: TrustedKeys | None = None,
    progress: Progress = silent,
) -> Iterator[Finding]:
    """Make every check, cheap ones first, and yield each finding as it is made.

    Args:
        bundle: folder of a bundle to try; None tries a practice model.
        memory_bytes: the budget; None checks none.
        images: of an epoch, for its time.
        threads: of the runtime; by default all cores this process may use.
        provider: the execution provider to try.
        times_ways: whether every way to take a step that fits is timed.
        load: modules that will be resident beside the device room when a bundle is adapted, e.g. the command line's.
        root: where ``proc``, ``sys`` and ``etc`` lie.
        trusted: public keys of which one must have signed the bundle.
        progress: told when a step is tried, in a process of its own, which takes seconds.
    """
    recognised = recognise(this_machine(root))
    release = (sys.version_info[0], sys.version_info[1], sys.version_info[2])
    install = checks.suited_install(recognised.profile.install, release)
    packages = checks.check_packages(checks.installed_packages(), checks.installed_runtimes(), install)
    yield checks.check_device(recognised)
    yield checks.check_python(release, 8 * struct.calcsize("P"), recognised.machine.architecture)
    yield packages
    if recognised.machine.tegra_release:
        yield check_jetpack(recognised.machine.tegra_release)
    yield from _examine_machine(recognised, bundle, memory_bytes, root)
    threads = threads or recognised.machine.cores
    if packages.status == "fail":
        yield from (skipped(check, "see packages") for check in ("runtime", "providers", "training"))
        works = False
    else:
        runtime = check_runtime(_tried(Request(threads=threads, provider=provider), progress), install)
        yield from runtime
        works = not worst_exit_code(runtime)
    if bundle is not None:
        request = Request(
            bundle=str(bundle),
            memory_bytes=memory_bytes,
            threads=threads,
            provider=provider,
            times_ways=times_ways,
            load=(ADAPTING, *load),
        )
        yield from _examine_bundle(bundle, request, images, works, trusted, progress)


def _tried(request: Request, progress: Progress) -> Outcome:
    """Try a step and say so: nothing is heard of it before it is done."""
    activity = "timing ways to take a step" if request.times_ways else "trying a step of the bundle"
    activity = activity if request.bundle else "trying a step of a practice model"
    progress(activity, 0, 0)
    outcome = attempt(request)
    progress(activity, 1, 1)
    return outcome


def _examine_machine(
    recognised: Recognised, bundle: Path | None, memory_bytes: int | None, root: Path
) -> Iterator[Finding]:
    limit = group_limit(root)
    yield checks.check_memory(memory_bytes, recognised.machine.memory_bytes, available_bytes(), limit)
    yield checks.check_wall(data_limit(), memory_bytes)
    yield checks.check_swap(*swap_bytes())
    files = [file for file in bundle.iterdir() if file.is_file()] if bundle is not None and bundle.is_dir() else []
    folder = (bundle.absolute().parent if bundle is not None else Path.cwd()).resolve()
    if folder.is_dir():
        needed = 2 * sum(file.stat().st_size for file in files)  # a copy, and the best weights or a checkpoint
        yield checks.check_disk(folder, shutil.disk_usage(folder).free, os.access(folder, os.W_OK), needed)
    else:
        yield skipped("disk", f"{folder} does not exist")
    yield checks.check_clock(time.time(), max(file.stat().st_mtime for file in [Path(__file__), *files]))
    yield checks.check_thermals(read_thermals(root))


def _examine_bundle(
    folder: Path,
    request: Request,
    images: int | None,
    works: bool,
    trusted: TrustedKeys | None,
    progress: Progress,
) -> Iterator[Finding]:
    try:
        opened = Bundle.open(folder, trusted=trusted)
    except EdgeplastError as error:
        message, advice = split_advice(str(error))
        yield failed("bundle", message, advice, error.exit_code)
        yield from (skipped(check, "see bundle") for check in ("its step", "budget", "speed"))
        return
    manifest = opened.manifest
    yield passed(
        "bundle",
        f"{manifest.model}, {len(manifest.classes)} classes, {format_bytes(opened.bytes)}; all hashes are right",
    )
    if not works:
        yield from (skipped(check, "no runtime that trains") for check in ("its step", "budget", "speed"))
        return
    request = msgspec.structs.replace(request, available_bytes=available_bytes())
    yield from check_bundle_steps(_tried(request, progress), request.memory_bytes, images)
