"""``edgeplast keygen``: a key that signs bundles, and its public half, which devices trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeplast.cli.console import print_json, say


def keygen(
    name: Annotated[Path, typer.Argument(help="Path and name of both files: NAME.key and NAME.pub.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print id and files as JSON.")] = False,
) -> None:
    """Make an Ed25519 key: NAME.key signs and stays with its owner, NAME.pub goes to every device that trusts it."""
    from edgeplast.trust.keys import key_files
    from edgeplast.trust.keys import keygen as make

    public = make(name)
    private_file, public_file = key_files(name)
    if as_json:
        print_json("key", {"key_id": public.id, "private": str(private_file), "public": str(public_file)})
        return
    say(f"Key {public.id}")
    say(f"Written: {private_file}  signs; its owner alone may read it")
    say(f"         {public_file}  verifies; copy it to whoever shall trust it")
    say(f"Next: edgeplast sign bundle/ --key {private_file}, then on the device: adapt … --trusted {public_file}")
