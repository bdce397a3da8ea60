"""``edgeplast history``: the versions of an adapted bundle, and which one it is."""

from __future__ import annotations

from datetime import timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeplast.cli.console import print_json, print_table, say
from edgeplast.units import format_bytes
from edgeplast.versions import Version


def history(
    bundle: Annotated[Path, typer.Argument(help="Folder of an adapted bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the versions as JSON.")] = False,
) -> None:
    """Show what an adapted bundle was before: each version, when and by what it was made, and from which."""
    from edgeplast.versions import current
    from edgeplast.versions import history as run

    versions = run(bundle)
    now = current(bundle, versions)
    if as_json:
        found = [{**msgspec.to_builtins(v), "name": v.name, "current": v is now} for v in versions]
        print_json(msgspec.json.encode(found))
        return
    if not versions:
        say(f"{bundle} keeps no versions: it was not adapted, or with --versions 0, or before there were versions.")
        return
    names = {version.digest: version.name for version in versions}
    rows = [_row(version, names, version is now) for version in versions]
    print_table("", ("version", "made", "from", "by", "classes", "accuracy", "weights"), rows)
    say(f"\nThe arrow marks what it is now. Put one back: edgeplast roll-back {bundle} v{versions[0].number}")


def _row(version: Version, names: dict[str, str], is_current: bool) -> tuple[str, ...]:
    made = f"{version.made_at.astimezone(timezone.utc):%Y-%m-%d %H:%M}"
    source = "–" if version.parent is None else names.get(version.parent, version.parent[:12])
    steps = f", {version.steps} steps" if version.steps else ""
    more = f" (+{len(version.new_classes)})" if version.new_classes else ""
    accuracy = "–" if version.after is None else f"{version.after:.1%} ({version.measured_on})"
    name = f"{version.name} ←" if is_current else version.name
    weights = format_bytes(version.weights_bytes)
    return name, made, source, f"{version.by}{steps}", f"{version.classes}{more}", accuracy, weights
