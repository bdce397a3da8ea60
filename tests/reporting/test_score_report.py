"""The score report: everything in it, self-contained, the same every time, whole or absent."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from vit_graphs import vit

from edgeplast.errors import InputError, MissingExtraError
from edgeplast.graphs.recording import recorded
from edgeplast.planning import memory_alone
from edgeplast.reporting.scores import score_report
from edgeplast.scores import ComponentScore, ScoreTable

pytest.importorskip("matplotlib")


def report(given: ScoreTable, into: Path, png: Path | None = None) -> None:
    score_report(given, into, png, memory=memory_alone(given))


def table(*, others: tuple[str, ...] = ("jacobian", "last-k"), depth: int = 3, wide: bool = False) -> ScoreTable:
    rng = np.random.default_rng(0)

    def scores(scale: float) -> dict[str, ComponentScore]:
        return {
            f"blocks.{i}.{kind}": ComponentScore(
                score=float(scale * rng.lognormal(0, 3 if wide else 0.4)), parameters=100 * (i + 1),
                standard_error=0.02, samples=16,
            )
            for i in range(depth)
            for kind in ("norm1", "attn", "norm2", "fc1", "fc2")
        }  # fmt: skip

    outline, graph = vit(width=4, depth=depth, heads=2, image=8, patch=4, classes=3)
    outline = msgspec.structs.replace(outline, model="toy <b>&")
    return ScoreTable(method="plasticity", components=scores(1), others={m: scores(2) for m in others},
                      outline=outline, graph=recorded(graph), classes=("cat", "<script>"), seconds={"plasticity": 1.5},
                      notes=("plasticity: settled & done",))  # fmt: skip


class Outline(HTMLParser):
    """Collects tags and text, and checks that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_everything_and_needs_no_network(tmp_path: Path) -> None:
    report(table(), tmp_path / "report.html", tmp_path / "report.png")
    page = (tmp_path / "report.html").read_text()
    outline = Outline(page)
    for title in ("Blocks × components", "By component type", "Ranking, and what training costs",
                  "The other methods", "Do the methods agree?", "All numbers"):  # fmt: skip
        assert title in outline.text
    for word in (
        "blocks.2.fc2",
        "jacobian",
        "last-k",
        "cannot be told apart",
        "cat, <script>",
        "toy <b>&",
        "settled & done",
    ):
        assert word in outline.text, word
    assert sum(tag == "svg" for tag, _ in outline.tags) == 3 + 2 + 1
    assert not {"script", "link", "iframe", "b"} & {tag for tag, _ in outline.tags}
    for _, attributes in outline.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)|@import", page)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert ids and len(ids) == len(set(ids))
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert len(page) < 600_000


def test_the_same_table_gives_the_same_page(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        report(table(), tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.parametrize("given", [table(others=()), table(depth=1), table(wide=True), table(depth=24)])
def test_it_draws_one_method_one_block_many_blocks_and_scores_over_decades(given: ScoreTable, tmp_path: Path) -> None:
    report(given, tmp_path / "report.html", tmp_path / "report.png")
    assert ("Do the methods agree?" in (tmp_path / "report.html").read_text()) == bool(given.others)


def test_scores_of_zero_and_below_can_be_drawn(tmp_path: Path) -> None:
    like = table()
    components = {
        f"blocks.{i}.attn": ComponentScore(score=float(i - 1), parameters=0, standard_error=0.1) for i in range(3)
    }
    same = {name: ComponentScore(score=0.0, parameters=0) for name in components}
    given = ScoreTable(
        method="elastic", components=components, others={"fps": same}, outline=like.outline, graph=like.graph
    )
    report(given, tmp_path / "report.html", tmp_path / "report.png")


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "taken.html"
    target.write_text("old")
    with pytest.raises((InputError, OSError)):
        report(table(), target, target / "x.png")  # a file where a folder would have to be
    assert not list(tmp_path.glob(".*partial"))


def test_without_matplotlib_the_command_to_type_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib is not installed; .* pip install 'edgeplast\[offline\]'"):
        report(table(), tmp_path / "report.html")
