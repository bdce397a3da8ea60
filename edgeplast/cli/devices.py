"""``edgeplast devices``: the devices whose defaults are known, and which of them this machine is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from edgeplast.cli.console import print_json, print_table, say
from edgeplast.units import format_bytes

if TYPE_CHECKING:
    from edgeplast_devices.detection import Recognised
    from edgeplast_devices.device_profiles import Profile
    from edgeplast_devices.thermals import ThermalState


def devices(
    name: Annotated[str | None, typer.Argument(help="Show one device: its name, my.toml, or auto.")] = None,
    detect: Annotated[bool, typer.Option("--detect", help="Recognise the machine this runs on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the devices that --device knows, show one, or recognise this machine."""
    from edgeplast_devices.device_profiles import all_profiles, profile_defaults

    if detect:
        _detect(as_json)
    elif name is not None:
        profile = profile_defaults(name)
        if as_json:
            print_json("device", msgspec.json.encode(profile))
        else:
            print_table("", (profile.name, ""), _facts(profile))
    elif as_json:
        print_json("devices", {"devices": all_profiles()})
    else:
        _list(all_profiles())


def _list(profiles: tuple[Profile, ...]) -> None:
    rows = [
        (p.name, f"{p.memory_bytes / 1e9:.0f} GB", str(p.cores), format_bytes(p.budget_bytes), str(p.threads),
         p.provider, p.install.removeprefix("pip install 'edgeplast").strip("'"))
        for p in profiles
    ]  # fmt: skip
    columns = ("device", "memory", "cores", "--memory", "--threads", "--provider", "install")
    note = (
        "\nDefaults for: edgeplast plan, export, adapt --device NAME (or my.toml, or auto for this machine).\n"
        "One in full: edgeplast devices NAME. This machine: edgeplast devices --detect"
    )
    print_table("", columns, rows, note, left=("--provider", "install"))


def _facts(profile: Profile) -> list[tuple[str, str]]:
    rows = [
        ("title", profile.title),
        ("memory", f"{format_bytes(profile.memory_bytes)}"),
        ("cores", str(profile.cores)),
        ("--memory", format_bytes(profile.budget_bytes)),
        ("--threads", str(profile.threads)),
        ("--provider", profile.provider),
        ("install", profile.install),
        ("source", profile.source),
    ]
    return rows + ([("note", profile.note)] if profile.note else [])


def _detect(as_json: bool) -> None:
    from edgeplast_devices.detection import recognise, this_machine
    from edgeplast_devices.thermals import read_thermals

    found, thermals = recognise(this_machine()), read_thermals()
    if as_json:
        content: dict[str, Any] = {
            "machine": found.machine,
            "recognised": found.exact,
            "why": found.why,
            "profile": found.profile.name,
            "defaults": found.fitted,
            "thermals": thermals,
        }
        print_json("machine", content)
        return
    say(_verdict(found))
    rows = [
        (name, text) for name, text in _facts(found.fitted) if name not in ("title", "source")
    ] + _senses(thermals)  # fmt: skip
    say()
    print_table("", ("this machine", ""), rows, "\nUse it with: --device auto. What works here: edgeplast doctor")


def _verdict(found: Recognised) -> str:
    if found.exact:
        return f"{found.profile.title} ({found.profile.name}): {found.why}."
    return (
        f"Not recognised: {found.why}.\n"
        f"Nearest: {found.profile.name}, {found.profile.title}; "
        "budget and threads below are cut to what is here."
    )


def _senses(thermals: ThermalState) -> list[tuple[str, str]]:
    rows = []
    if thermals.hottest_celsius is not None:
        zones = ", ".join(f"{name} {value:.0f} °C" for name, value in thermals.temperatures_celsius.items())
        rows.append(("temperature", zones))
    if thermals.power_watts is not None:
        rows.append(("power", f"{thermals.power_watts:.1f} W"))
    if thermals.slowed_by:
        rows.append(("slowed down by", ", ".join(thermals.slowed_by)))
    return rows
