"""What the site has beside the pages in this folder: READMEs of the rooms, the changes, the command line's reference.

Links in pages lead to files of the repository (``../../devices/README.md``), so that they also work where the
repository is read; here they are led to the page that such a file has on the site.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

from commands import reference

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "devices/README.md": "rooms/devices.md",
    "exporters/README.md": "rooms/exporters.md",
    "edgeplast/graphs/README.md": "rooms/graphs.md",
    "edgeplast/scoring/README.md": "rooms/scoring.md",
    "edgeplast/comparing/README.md": "rooms/comparing.md",
    "edgeplast/compression/README.md": "rooms/compression.md",
    "edgeplast/trust/README.md": "rooms/trust.md",
    "edgeplast/reporting/README.md": "rooms/reporting.md",
    "edgeplast/fleet/README.md": "rooms/fleet.md",
    "edgeplast/pretrained/README.md": "rooms/pretrained.md",
    "examples/quickstart/README.md": "rooms/quickstart.md",
    "examples/camera/README.md": "rooms/camera.md",
    "CHANGELOG.md": "changes.md",
}
"""Files of the repository that are pages of the site."""

PICTURES = {
    "edgeplast/compression/kept.png": "rooms/kept.png",
    "edgeplast/scoring/equal_memory.png": "rooms/equal_memory.png",
}
COMMANDS = "<!-- the commands -->"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_ON_SITE = {**ROOMS, **PICTURES}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that lie elsewhere in the repository."""
    for source, page in ROOMS.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for source, picture in PICTURES.items():
        files.append(File.generated(config, picture, content=(ROOT / source).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **more: Any) -> str:  # noqa: ARG001
    """Fill in the command line's reference, and lead links out of this folder to where they are on the site."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, reference())
    here = page.file.src_uri
    sources = {page: source for source, page in ROOMS.items()}
    return relinked(markdown, sources.get(here, f"docs/{here}"), here)


def relinked(markdown: str, source: str, page: str) -> str:
    """Return a page with its links as the site needs them.

    Args:
        markdown: the page.
        source: its file in the repository.
        page: its place on the site.
    """

    def link(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if file in _ON_SITE:
            place = _ON_SITE[file]
        elif file.startswith("docs/"):
            place = file.removeprefix("docs/")
        elif file == "README.md":
            place, anchor = "index.md", ""
        elif (ROOT / file).exists():
            return f"`{file}`"  # code, which the site does not show
        else:
            return match[0]  # dead, and the build says so
        return f"{picture}[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor or ''})"

    return _LINK.sub(link, markdown)
