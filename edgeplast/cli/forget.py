"""``edgeplast forget``: delete what an adapted bundle keeps of the pictures that it learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeplast.cli.console import print_json, say
from edgeplast.errors import UsageError


def forget(
    bundle: Annotated[Path, typer.Argument(help="Folder of an adapted bundle.")],
    replay: Annotated[bool, typer.Option("--replay", help="Delete the pictures that are kept for later runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print how many were deleted as JSON.")] = False,
) -> None:
    """Delete what an adapted bundle keeps of the pictures that it learned from; the model stays as it is."""
    from edgeplast_devices.replaying import forget_replay

    if not replay:
        raise UsageError(f"Say what {bundle} is to forget: --replay, the pictures that it keeps for later runs.")
    count = forget_replay(bundle)
    if as_json:
        print_json("forgotten", msgspec.json.encode({"pictures": count}), bundle)
    else:
        say(f"{count} picture{'' if count == 1 else 's'} of {bundle} deleted. The model stays as it is.")
