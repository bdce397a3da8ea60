"""Links between pages, words in the glossary, and what the site is made of."""

from __future__ import annotations

import ast
import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from pages import PAGES, ROOT, SITE, anchors, links, prose

from edgeplast.comparison import Comparison


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        written = "<!-- the commands -->" in prose(file) if file.suffix == ".md" else False
        generated = file.name == "python.md"
        if anchor and file.suffix == ".md" and not written and not generated:
            assert anchor in anchors(file), target


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]))
    ours = {str(page.relative_to(ROOT / "docs")) for page in SITE}
    assert ours <= listed
    assert {name for name in listed - ours if not name.startswith("rooms/")} == {"changes.md"}


def test_every_readme_is_a_page_of_the_site() -> None:
    hook = (ROOT / "docs/hooks/site.py").read_text()
    readmes = {str(page.relative_to(ROOT)) for page in PAGES if page.name == "README.md"} - {"README.md"}
    assert readmes <= set(re.findall(r'"([\w/]+README\.md)": "rooms/', hook))


def test_sentences_are_not_broken_in_the_middle() -> None:
    """A line that is much shorter than its neighbours, in the middle of a paragraph."""
    for page in [ROOT / "README.md", *SITE]:
        for paragraph in prose(page).split("\n\n"):
            lines = paragraph.strip("\n").split("\n")
            if any(
                line.lstrip().startswith(("*", "|", "#", "1.", "2.", "3.", "4.", "5.", "-", "<", "!", ":::"))
                for line in lines
            ):
                continue
            for line, after in pairwise(lines):
                is_whole = line.rstrip("*").endswith((".", ":", "?", "!", ")"))
                assert is_whole or len(line) + 1 + len(after.split(" ")[0]) > 72, f"{page.name}: {line!r} ends early"


EVERYDAY = {
    "", "a step", "adapted", "all", "attn kept", "cost", "class", "device", "exported", "fc1 kept",
    "fc2 kept", "heads", "hidden units", "images", "install", "memory", "model", "cores", "parameters",
    "peak", "peak with it", "short by", "size", "this machine", "time", "before", "after",
    "accuracy", "components", "blocks", "quantized to 8 bits", "--memory", "--threads", "--provider", "step",
    "bundle", "title", "source", "note", "temperature", "power", "slowed down by", "time a step", "verified",
    "report.json", "version", "made", "from", "by", "classes", "weights",
}  # fmt: skip
"""Headings that say what they mean, or are an option's own name."""


def _headings() -> set[str]:
    """Headings and first cells of tables that commands print, where they are written as they are."""
    found: list[ast.expr] = []
    for path in sorted((ROOT / "edgeplast/cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print_table":
                found += [part for part in ast.walk(node.args[1]) if isinstance(part, ast.expr)]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("rows.append", "rows.insert"):
                found += _first_cells(node.args)
            elif isinstance(node, ast.List):
                found += _first_cells(node.elts)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("headings", "columns"):
                found += node.value.elts if isinstance(node.value, ast.Tuple) else []
    compared = vars(Comparison)["columns"].fget(SimpleNamespace(measures_forgetting=True))
    texts = [part.value for part in found if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return {" ".join(text.split()) for text in (*texts, *compared)}


def _first_cells(rows: list[ast.expr]) -> list[ast.expr]:
    return [row.elts[0] for row in rows if isinstance(row, ast.Tuple) and len(row.elts) > 1]


def test_the_glossary_has_the_words_that_are_printed() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text().lower()
    for word in ("rung", "tier", "kept", "summed score", "partly recomputed", "micro-batch", "predicted peak", "wall"):
        assert f"### {word}" in glossary or f"{word}" in re.findall(r"### (.+)", glossary), word
    assert len(_headings()) > 40
    unexplained = {w for w in _headings() - EVERYDAY if w.lower() not in glossary}
    assert unexplained == set()


def test_the_reference_of_commands_has_every_verb_and_option() -> None:
    path = ROOT / "docs/hooks/commands.py"
    spec = importlib.util.spec_from_file_location("docs_commands", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.reference()
    for verb in ("adapt", "export", "doctor", "fleet init"):
        assert f"\n## {verb}\n" in f"\n{text}"
    assert "`-o`, `--output` *path*" in text and "Default: `adamw`" in text and "`--lora" not in text


def test_no_page_asks_another_host_for_anything() -> None:
    """The site opens without a network: no script, font or picture of others."""
    for page in SITE:
        assert not re.search(r"!\[[^\]]*\]\(https?:|<script|<iframe|<img[^>]+https?:", page.read_text()), page
    assert "font: false" in (ROOT / "mkdocs.yml").read_text()
