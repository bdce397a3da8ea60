"""``edgeplast predict``: classify pictures with a deployed model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeplast.cli.console import name_unreadable, print_json, print_table, progress_bar
from edgeplast.cli.options import ProviderOption, RuntimeOption, provider_of


def predict(
    model: Annotated[Path, typer.Argument(help="ONNX file from `edgeplast deploy`.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, folders of pictures, or tars.")],
    top: Annotated[int, typer.Option(help="Classes to show for each picture.", min=1)] = 3,
    threads: Annotated[int | None, typer.Option(help="Of the runtime (default: all usable cores).", min=1)] = None,
    runtime: RuntimeOption = "auto",
    provider: ProviderOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print probabilities as JSON.")] = False,
) -> None:
    """Classify pictures and print the most likely classes with their probabilities."""
    from edgeplast.verbs import predict as run
    from edgeplast_devices.images import Unreadable

    unreadable = Unreadable()
    with progress_bar(as_json) as progress:
        found = run(
            model,
            images,
            threads=threads,
            runtime=runtime,
            provider=provider_of(provider),
            unreadable=unreadable,
            progress=progress,
        )
    ranked = [(p.name, list(p.probabilities.items())[:top]) for p in found]
    if as_json:
        print_json(msgspec.json.encode([{"image": name, "probabilities": dict(best)} for name, best in ranked]))
    else:
        rows = [(name, "  ".join(f"{label} {p:.1%}" for label, p in best)) for name, best in ranked]
        print_table("", ("picture", "most likely"), rows, left=("most likely",))
    name_unreadable(unreadable.count, unreadable.examples)
