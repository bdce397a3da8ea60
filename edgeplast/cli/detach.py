"""``edgeplast detach``: what an adapted bundle has learned, as a small file that its base can be given again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeplast.adapters import ADAPTER_FILE, PEFT_CONFIG
from edgeplast.cli.console import print_json, progress_bar, say
from edgeplast.cli.options import SignOption, TrustedOption
from edgeplast.units import format_bytes


def detach(
    bundle: Annotated[Path, typer.Argument(help="Folder of an adapted bundle.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the adapter.")],
    trusted: TrustedOption = None,
    sign: SignOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the adapter holds as JSON.")] = False,
) -> None:
    """Write what an adapted bundle has learned, its classes, temperature and threshold with it, as a small adapter.

    adapt, evaluate and deploy put it on the bundle that it was adapted from: --adapter FOLDER.
    """
    from edgeplast.verbs import detach as run

    with progress_bar(as_json, doing=f"opening {bundle}") as progress:
        found = run(bundle, output, force=force, trusted=trusted, sign=sign, progress=progress)
    size = (output / ADAPTER_FILE).stat().st_size
    loads = (output / PEFT_CONFIG).is_file()
    if as_json:
        print_json("adapter", {**msgspec.to_builtins(found), "bytes": size, "peft": loads}, output)
        return
    peft = "laid out as PEFT has it" if loads else "no configuration for PEFT, which is for low-rank factors"
    say(
        f"Written: {output} ({format_bytes(size)}: {found.parameters:,} parameters, {len(found.classes)} classes; base "
        f"{found.base[:12]}; {peft})  (next: edgeplast evaluate BASE --adapter {output} --data test/)"
    )
