"""``edgeplast doctor``: whether adaptation will work here, tried before it starts."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeplast.bundle import Bundle
from edgeplast.cli.console import print_as_is, print_json, print_table, progress_bar, say
from edgeplast.cli.options import ProviderOption, TrustedOption, budget_of, provider_of, trusted_of
from edgeplast.cli.wrapping import columns_of
from edgeplast.errors import EdgeplastError, UsageError
from edgeplast.printable import printable
from edgeplast.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgeplast.trust.trusting import TrustedKeys
    from edgeplast_devices.device_profiles import Profile
    from edgeplast_devices.doctor.findings import Finding

_MARKS = {"pass": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "skip": ("–", "bright_black")}
_NAME_WIDTH, _MOST_COLUMNS = 10, 110


def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to try (default: a practice model).")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Budget to check, e.g. 256MiB (default: the bundle's), or none.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Take its budget; see `edgeplast devices`.")] = None,
    images: Annotated[int | None, typer.Option(help="Training images, for the time of an epoch.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the runtime (default: all usable cores).")] = None,
    provider: ProviderOption = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time every way to take a step that fits; adapt then knows them.")
    ] = False,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> int:
    """Try everything that decides whether adaptation will work here: packages, runtime, memory, disk, heat, bundle."""
    from edgeplast.trust.trusting import trusted_keys
    from edgeplast_devices.device_profiles import profile_defaults
    from edgeplast_devices.doctor.examining import examine
    from edgeplast_devices.doctor.findings import worst_exit_code

    if measure and bundle is None:
        raise UsageError("--measure times ways to take a step of a bundle: edgeplast doctor bundle/ --measure")
    for flag, number in (("images", images), ("threads", threads)):
        if number is not None and number < 1:
            raise UsageError(f"--{flag} {number} is out of range; give 1 or more.")
    profile = profile_defaults(device) if device else None
    keys = trusted_keys(trusted_of(trusted, profile))
    budget = _budget_of(memory, profile, bundle, keys)
    findings: list[Finding] = []
    load = ("edgeplast.cli.app", "edgeplast.cli.adapt")
    chosen = provider_of(provider, profile)
    with progress_bar(as_json, doing="looking at this machine") as progress:
        tried = examine(
            bundle,
            memory_bytes=budget,
            images=images,
            threads=threads,
            provider=chosen,
            times_ways=measure,
            load=load,
            trusted=keys,
            progress=progress,
        )
        for finding in tried:
            findings.append(finding)
            if not as_json:
                _show(finding)
                _show_ways(finding)
    code = worst_exit_code(findings)
    if as_json:
        content: dict[str, Any] = {"works": code == 0, "exit_code": code, "findings": findings}
        print_json("examination", content)
    else:
        say(_verdict(findings, bundle))
    return code


def _budget_of(
    memory: str | None, profile: Profile | None, bundle: Path | None, trusted: TrustedKeys | None
) -> int | None:
    """Return the bytes that ``adapt`` would keep to if it were given the same."""
    from edgeplast_devices.memory import machine_bytes

    if memory is not None or profile is not None:
        return budget_of(memory, profile).memory_bytes
    if bundle is None:
        return None
    try:
        exported_for = Bundle.open(bundle, trusted=trusted).manifest.plan.budget.memory_bytes
    except EdgeplastError:
        return None  # what is wrong with it is a finding of its own
    return None if exported_for is None else min(exported_for, machine_bytes())


def _show(finding: Finding) -> None:
    """One finding as soon as it is made: mark, name, message, and on a line of its own what to do."""
    columns = min(columns_of(sys.stdout), _MOST_COLUMNS)
    mark, colour = _MARKS[finding.status]
    indent = " " * (_NAME_WIDTH + 3)
    lines = textwrap.wrap(printable(finding.message), max(columns - len(indent), 30), break_on_hyphens=False)
    message = f"\n{indent}".join(lines)
    print_as_is(f"{typer.style(mark, fg=colour)} {finding.check:<{_NAME_WIDTH}} {message}")
    if finding.advice:
        advice = textwrap.wrap(printable(finding.advice), max(columns - len(indent) - 2, 30), break_on_hyphens=False)
        print_as_is(typer.style(f"{indent}→ " + f"\n{indent}  ".join(advice), fg=colour))


def _show_ways(finding: Finding) -> None:
    """The ways to take a step: what each needs, is expected to take beside the first that was timed, and took."""
    rate = next((way.image_seconds / way.image_flops for way in finding.ways if way.image_seconds), 0.0)
    rows = [
        (
            f"{way.rung}{' ←' if way.is_taken else ''}",
            str(way.threads),
            format_bytes(way.peak_bytes),
            format_seconds(100 * rate * way.image_flops) if rate else "–",
            format_seconds(100 * way.image_seconds) if way.image_seconds else "–",
        )
        for way in finding.ways
    ]
    if rows:
        timed = "Of 100 images, forward and backward; expected by the constants from the first that was timed."
        none = "None was timed here yet: edgeplast doctor bundle/ --measure times them."
        columns = ("way to take a step", "threads", "peak", "expected", "timed")
        print_table("", columns, rows, timed if rate else none)


def _verdict(findings: list[Finding], bundle: Path | None) -> str:
    bad = [finding.check for finding in findings if finding.status == "fail"]
    odd = [finding.check for finding in findings if finding.status == "warn"]
    if bad:
        return f"\nAdaptation will not work here: {', '.join(bad)}."
    text = "\nAdaptation works here" + (f"; look at: {', '.join(odd)}." if odd else ".")
    return text + ("" if bundle else " To try one of your own: edgeplast doctor bundle/ --memory 256MiB")
