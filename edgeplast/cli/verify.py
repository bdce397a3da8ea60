"""``edgeplast verify``: who signed a bundle or a model, whether anything was changed, and what it was made from."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeplast.cli.console import print_json, print_table, progress_bar
from edgeplast.units import format_bytes

if TYPE_CHECKING:
    from edgeplast.trust.signing import Verification


def verify(
    path: Annotated[Path, typer.Argument(help="Bundle folder, fresh or adapted, or a deployed ONNX file.")],
    key: Annotated[Path, typer.Option("--key", help="Public keys: a file, or a folder of *.pub and revoked.txt.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Verify that a trusted key signed it and that every file is what was signed; exit code 5 if not."""
    from edgeplast.trust.signing import verify as run

    with progress_bar(as_json, doing=f"verifying {path}") as progress:
        found = run(path, key, progress=progress)
    if as_json:
        print_json("verification", _content(found))
        return
    statement = found.signature.statement
    until = "never" if statement.expires_at is None else _time(statement.expires_at)
    rows = [
        ("signed by", str(found.signature.key)),
        ("signed at", _time(statement.signed_at)),
        ("expires", until),
        ("unchanged", f"{found.files} file{'' if found.files == 1 else 's'}, {format_bytes(found.bytes)}"),
    ]
    if found.report is not None:
        rows.append(("report.json", "as it was signed" if found.report else "there, but not part of the signature"))
    rows.append(("fingerprint", found.fingerprint))
    for link in found.signature.chain[1:]:
        by = f"signed by {link.verified_by}" if link.verified_by else f"by {link.key_id}, which is not trusted here"
        rows.append(("made from", f"{link.fingerprint}\n{by}, {_time(link.signed_at)}"))
    if found.signature.beyond is not None:
        rows.append(("made from", f"{found.signature.beyond}\nnot signed"))
    print_table("", ("verified", ""), [(name, text) for name, text in rows], left=("",))


def _content(found: Verification) -> dict[str, object]:
    statement = found.signature.statement
    return {
        "path": str(found.path),
        "subject": statement.subject,
        "fingerprint": found.fingerprint,
        "key_id": found.signature.key.id,
        "key": found.signature.key.name,
        "signed_at": statement.signed_at,
        "expires_at": statement.expires_at,
        "files": found.files,
        "bytes": found.bytes,
        "report_signed": found.report,
        "chain": found.signature.chain,
        "beyond": found.signature.beyond,
    }


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
