"""``edgeplast roll-back``: an adapted bundle becomes one of its versions again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeplast.cli.console import print_json, progress_bar, say


def roll_back(
    bundle: Annotated[Path, typer.Argument(help="Folder of an adapted bundle.")],
    version: Annotated[str, typer.Argument(help="Name of a version, such as v3; edgeplast history lists them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the version as JSON.")] = False,
) -> None:
    """Put a version of an adapted bundle back in its place; the versions after it stay, and can be put back too."""
    from edgeplast_devices.versioning import roll_back as run

    with progress_bar(as_json, doing=f"opening {bundle}") as progress:
        chosen = run(bundle, version, progress=progress)
    if as_json:
        print_json("version", chosen.to_json(), bundle)
        return
    say(f"{bundle} is {chosen.name} again ({chosen.classes} classes).  (next: edgeplast deploy {bundle} -o model.onnx)")
