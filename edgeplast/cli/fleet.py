"""``edgeplast fleet``: the app of a fleet for Flower, and what a fleet's rounds brought."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeplast.cli.console import print_json, print_table, say
from edgeplast.cli.options import SignOption, TrustedOption
from edgeplast.errors import UsageError
from edgeplast.fleet.flower import QUIET
from edgeplast.fleet.founding import write_app
from edgeplast.fleet.settings import Settings
from edgeplast.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgeplast.fleet.report import DeviceReport, FleetReport

_DEFAULTS = Settings(bundle="", output="")

VERBS = {"init": "write the app of a fleet, for flwr run", "report": "what a fleet's rounds brought"}
"""Functions of this file, each a command behind ``edgeplast fleet``."""


def init(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder that every device has, fresh or adapted.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the app.")],
    rounds: Annotated[int, typer.Option(help="How often devices learn and the server averages.")] = _DEFAULTS.rounds,
    local_steps: Annotated[int, typer.Option(help="Optimizer steps of a device in a round.")] = _DEFAULTS.local_steps,
    strategy: Annotated[str, typer.Option(help="fedavg, fedprox or fedadam.")] = _DEFAULTS.strategy,
    travel: Annotated[str, typer.Option(help="Updates as float32, float16 or int8.")] = _DEFAULTS.travel,
    privacy: Annotated[
        str, typer.Option(help="none, central, central-on-device or local differential privacy.")
    ] = _DEFAULTS.privacy,
    secure: Annotated[bool, typer.Option("--secure", help="The server learns sums alone (SecAgg+).")] = False,
    least_devices: Annotated[
        int | None, typer.Option(help="A round waits for so many (default: 2, with --secure 3, simulated all).")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the first round (default: by what trains).")] = None,
    rounds_into: Annotated[
        Path | None, typer.Option(help="Folder for bundles and report (default: beside the app, …-rounds).")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Simulation: labelled pictures, dealt out to the devices.")] = None,
    test: Annotated[Path | None, typer.Option(help="Pictures on which the server measures each round.")] = None,
    devices: Annotated[int, typer.Option(help="Simulation: how many.")] = 10,
    spread: Annotated[
        float, typer.Option(help="Simulation: Dirichlet concentration; 0.3 is uneven, 100 even.")
    ] = _DEFAULTS.spread,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    trusted: TrustedOption = None,
    sign: SignOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an app that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """Write a Flower app: a pyproject with all settings, and two small files that call edgeplast.fleet."""
    least = least_devices if least_devices is not None else devices if data is not None else 3 if secure else 2
    settings = write_app(
        bundle,
        output,
        devices=devices,
        force=force,
        rounds=rounds,
        local_steps=local_steps,
        strategy=strategy,
        travel=travel,
        privacy=privacy,
        secure=secure,
        least_devices=least,
        learning_rate=learning_rate or 0.0,
        output=_text(rounds_into),
        data=_text(data),
        test=_text(test),
        spread=spread,
        seed=seed,
        trusted=_text(trusted),
        sign=_text(sign),
    )
    if as_json:
        print_json("fleet app", {"app": str(output), **settings.config()})
        return
    quiet = " ".join(f"{name}={value}" for name, value in QUIET.items())
    say(f"Written: {output} (settings: {output / 'pyproject.toml'})")
    say(f"\nFlower and ray report their use to their makers unless they are told not to:\n  export {quiet}")
    if data is None:
        say("\nSimulated devices need pictures (--data); for real ones see the page “Ship to forty devices”.")
    say(f"\nSimulate {devices} devices here:\n  flwr run {output} local-simulation --stream")
    say(f"Rounds:\n  edgeplast fleet report {settings.output}")


def report(
    rounds: Annotated[Path, typer.Argument(help="Folder that the server writes: …-rounds.")],
    number: Annotated[
        int | None, typer.Option("--round", help="Show the devices of one round (default: all rounds).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show accuracy, bytes and seconds by round, or what each device did in one."""
    from edgeplast.fleet.outcome import REPORT
    from edgeplast.fleet.report import FleetReport

    found = FleetReport.read(rounds / REPORT if rounds.is_dir() else rounds)
    if as_json:
        print_json("fleet report", found.to_json())
    elif number is None:
        _show_rounds(found, rounds)
    else:
        chosen = [each for each in found.rounds if each.round == number]
        if not chosen:
            raise UsageError(f"--round {number} is not there; {rounds} has rounds 1 to {len(found.rounds)}.")
        _show_devices(chosen[0].devices)


def _show_rounds(found: FleetReport, rounds: Path) -> None:
    rows = []
    for each in found.rounds:
        out = [device.device for device in each.devices if not device.taken and device.reason]
        rows.append((
            str(each.round), _percent(each.accuracy), _percent(each.test_accuracy),
            f"{sum(device.taken for device in each.devices)} of {len(each.devices)}", ", ".join(out) or "–",
            format_bytes(each.received_bytes), format_bytes(each.sent_bytes), format_seconds(each.seconds),
        ))  # fmt: skip
    columns = ("round", "accuracy", "test", "taken", "left out", "to them", "from them", "time")
    last = rounds / f"round-{len(found.rounds):03d}"
    note = (
        "" if not found.rounds else f"\nThe last round's bundle: {last}  (next: edgeplast deploy {last} -o model.onnx)"
    )
    print_table("", columns, rows, note, left=("left out",))


def _show_devices(devices: tuple[DeviceReport, ...]) -> None:
    rows = [
        (
            each.device, "yes" if each.taken else "no", each.reason or "–", str(each.examples),
            _percent(each.accuracy), "–" if each.seconds is None else format_seconds(each.seconds),
            "–" if each.peak_bytes is None else format_bytes(each.peak_bytes), format_bytes(each.sent_bytes),
        )
        for each in devices
    ]  # fmt: skip
    columns = ("device", "taken", "why not", "pictures", "accuracy", "time", "peak", "sent")
    print_table("", columns, rows, left=("taken", "why not"))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _text(path: Path | None) -> str:
    return "" if path is None else str(path)
