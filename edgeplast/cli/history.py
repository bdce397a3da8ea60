"""``edgeplast history``: the versions of an adapted bundle, and which one it is."""

from __future__ import annotations

from datetime import timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeplast.bundle import MANIFEST
from edgeplast.cli.console import print_json, print_table, say
from edgeplast.cli.options import TrustedOption
from edgeplast.errors import DamagedError, UntrustedError
from edgeplast.units import format_bytes
from edgeplast.versions import Version, folders_of


def history(
    bundle: Annotated[Path, typer.Argument(help="Folder of an adapted bundle.")],
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the versions as JSON.")] = False,
) -> None:
    """Show what an adapted bundle was before: each version, when and by what it was made, and from which."""
    from edgeplast.versions import current
    from edgeplast.versions import history as run

    versions = run(bundle)
    now = current(bundle, versions)
    signed = _signed(bundle, trusted)
    if as_json:
        found = [
            {**msgspec.to_builtins(v), "name": v.name, "current": v is now, "signed_by": signed[v.number]}
            for v in versions
        ]
        print_json("versions", {"versions": found})
        return
    if not versions:
        say(f"{bundle} keeps no versions: it was not adapted, or with --versions 0, or before there were versions.")
        return
    names = {version.digest: version.name for version in versions}
    rows = [_row(version, names, version is now) for version in versions]
    columns: tuple[str, ...] = ("version", "made", "from", "by", "classes", "accuracy", "weights")
    if any(signed.values()):
        columns = (*columns, "signed by")
        rows = [(*row, signed[version.number] or "–") for row, version in zip(rows, versions, strict=True)]
    print_table("", columns, rows)
    say(f"\nThe arrow marks what it is now. Put one back: edgeplast roll-back {bundle} v{versions[0].number}")


def _signed(bundle: Path, trusted: Path | None) -> dict[int, str | None]:
    """Return by which key each version says to be signed; with keys, which of them did, or why none counts.

    Raises:
        InputError: there are no such keys.
    """
    from edgeplast.trust.signatures import read_envelopes
    from edgeplast.trust.trusting import trusted_keys

    keys, found = trusted_keys(trusted), dict[int, str | None]()
    for number, folder in folders_of(bundle).items():
        try:
            envelopes = read_envelopes(folder)
            found[number] = envelopes[0].signatures[0].keyid if envelopes else None
            if keys is not None and envelopes:
                found[number] = str(keys.check_bundle(folder, (folder / MANIFEST).read_bytes()).key)
        except UntrustedError:
            found[number] = f"not trusted: {found[number]}"
        except (DamagedError, OSError):
            found[number] = "damaged"
    return found


def _row(version: Version, names: dict[str, str], is_current: bool) -> tuple[str, ...]:
    made = f"{version.made_at.astimezone(timezone.utc):%Y-%m-%d %H:%M}"
    source = "–" if version.parent is None else names.get(version.parent, version.parent[:12])
    steps = f", {version.steps} steps" if version.steps else ""
    more = f" (+{len(version.new_classes)})" if version.new_classes else ""
    accuracy = "–" if version.after is None else f"{version.after:.1%} ({version.measured_on})"
    name = f"{version.name} ←" if is_current else version.name
    weights = format_bytes(version.weights_bytes)
    return name, made, source, f"{version.by}{steps}", f"{version.classes}{more}", accuracy, weights
