"""``edgeplast sign``: sign a bundle or a deployed model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeplast.cli.console import print_json, progress_bar, say
from edgeplast.cli.options import ExpiresOption
from edgeplast.stored_files import signatures_beside


def sign(
    path: Annotated[Path, typer.Argument(help="Bundle folder, fresh or adapted, or a deployed ONNX file.")],
    key: Annotated[Path, typer.Option("--key", help="Private key; see `edgeplast keygen`.")],
    expires: ExpiresOption = None,
    force: Annotated[bool, typer.Option("--force", help="Sign again what is signed already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print key and file as JSON.")] = False,
) -> None:
    """Check a bundle against its manifest and sign that, which holds size and hash of every file."""
    from edgeplast.trust.signing import sign as run
    from edgeplast.trust.signing import signer_of

    signer = signer_of(key, expires)
    with progress_bar(as_json, doing=f"verifying {path}") as progress:
        run(path, signer, force=force, progress=progress)
    file = signatures_beside(path)
    if as_json:
        print_json("signature", {"path": str(path), "key_id": signer.key.public.id}, file)
        return
    until = "" if expires is None else f", for {expires:g} days"
    say(f"Signed by {key.name} ({signer.key.public.id}){until}: {file}  (next: edgeplast verify {path} --key NAME.pub)")
