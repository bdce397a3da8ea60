"""``edgeplast evaluate``: how well a bundle or a deployed model does on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeplast.cli.console import name_unreadable, print_json, print_table, progress_bar
from edgeplast.cli.options import (
    AdapterOption,
    DeviceOption,
    ExcludeOption,
    ProviderOption,
    RuntimeOption,
    TrustedOption,
    labelled_images,
    profile_of,
    provider_of,
    runtime_text,
    threads_of,
    trusted_of,
)
from edgeplast.outputs import claim


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, fresh or adapted, or a deployed ONNX file.")],
    data: Annotated[Path, typer.Option(help="Labelled images: folder, tar, zip or npz.")],
    adapter: AdapterOption = None,
    split: Annotated[str | None, typer.Option(help="train, val or test (default: test, else val, else train).")] = None,
    micro_batch: Annotated[int, typer.Option(help="Images in the graph at once.", min=1)] = 4,
    threads: Annotated[int | None, typer.Option(help="Of the runtime (default: all usable cores).", min=1)] = None,
    runtime: RuntimeOption = "auto",
    provider: ProviderOption = None,
    device: DeviceOption = None,
    trusted: TrustedOption = None,
    temperature: Annotated[
        bool,
        typer.Option(
            "--temperature/--no-temperature", help="Divide logits by the model's temperature, where it has one."
        ),
    ] = True,
    exclude: ExcludeOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSON file to write, of which `edgeplast report` makes a page."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure accuracy, loss and calibration of a bundle or deployed model on labelled images."""
    from edgeplast.evaluating import evaluate as run
    from edgeplast_devices.images import Unreadable

    if output is not None:
        claim(output, force=force)
    unreadable, profile = Unreadable(), profile_of(device)
    with progress_bar(as_json, doing=f"opening {data}") as progress:
        result = run(
            bundle,
            labelled_images(data, exclude=exclude or (), split=split, prefer=("test", "val"), progress=progress),
            adapter=adapter,
            micro_batch=micro_batch,
            threads=threads_of(threads, profile),
            runtime=runtime,
            provider=provider_of(provider, profile),
            temperature=temperature,
            unreadable=unreadable,
            trusted=trusted_of(trusted, profile),
            progress=progress,
        )
    name_unreadable(unreadable.count, unreadable.examples)
    if output is not None:
        result.write(output)
    if as_json:
        print_json("evaluation", result.to_json(), output)
        return
    rows = [
        (name, str(entry.images), *("–" if v is None else f"{v:.1%}" for v in (entry.accuracy, entry.precision)))
        for name, entry in result.per_class.items()
    ]
    rows.append(("all", str(result.images), f"{result.accuracy:.1%}", ""))
    interval = result.accuracy_interval
    between = f" (95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    note = f"\naccuracy {result.accuracy:.1%}{between}"
    note += f", loss {result.loss:.4f}, expected calibration error {result.expected_calibration_error:.3f}"
    if result.without_temperature is not None:
        without = result.without_temperature
        note += f" at temperature {result.temperature:.2f} (without it {without.loss:.4f} and "
        note += f"{without.expected_calibration_error:.3f})"
    note += f"; {runtime_text(result.runtime, result.provider)}"
    wrong = [f"{w.image} ({w.label}, called {w.predicted}: {w.confidence:.0%})" for w in result.most_wrong[:3]]
    note += f"\nmost wrong: {', '.join(wrong)}" if wrong else ""
    note += f"\nWritten: {output}  (next: edgeplast report {output} -o evaluation.html)" if output else ""
    print_table("", ("class", "images", "accuracy", "precision"), rows, note)
