"""The score report: everything in it, self-contained, the same every time, whole or absent."""

from __future__ import annotations

import importlib.util
import json
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

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="a picture needs it")


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


def test_the_page_shows_everything_and_needs_no_network_and_no_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report(table(), tmp_path / "report.html")
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
    tags = [tag for tag, _ in outline.tags]
    assert not {"link", "iframe", "svg"} & {*tags}
    (chart,) = re.findall(r"<div class=chart><script type=.application/json.>(.*?)</script>", page)
    rows = json.loads(chart)["rows"]
    assert [row.split()[0] for row in rows] == ["norm1", "attn", "norm2", "fc1", "fc2"] and tags.count("script") == 3
    attn = sorted(entry.score for name, entry in table().components.items() if name.endswith("attn"))
    assert rows[1] == f"attn {attn[1]:.3g}"
    for score in (f"{entry.score:.3g}" for entry in table().components.values()):
        assert f"<em>{score}</em>" in page and f"<td>{score} <small>± 0.039</small>" in page
    assert page.count("<table class='heat small'>") == 2 and "<table class=ranks>" in page
    assert "<b>&" not in page
    for _, attributes in outline.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(page) < 120_000


def test_the_same_table_gives_the_same_page(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        report(table(), tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@needs_matplotlib
@pytest.mark.parametrize("given", [table(others=()), table(depth=1), table(wide=True), table(depth=24)])
def test_it_draws_one_method_one_block_many_blocks_and_scores_over_decades(given: ScoreTable, tmp_path: Path) -> None:
    report(given, tmp_path / "report.html", tmp_path / "report.png")
    assert ("Do the methods agree?" in (tmp_path / "report.html").read_text()) == bool(given.others)


def test_neighbours_that_cannot_be_told_apart_are_joined_and_others_are_not(tmp_path: Path) -> None:
    like = table(others=())
    scores = {"blocks.0.attn": 0.9, "blocks.1.attn": 0.899, "blocks.2.attn": 0.5, "blocks.2.fc1": 0.2}
    components = {n: ComponentScore(score=s, parameters=10, standard_error=0.01, samples=9) for n, s in scores.items()}
    given = ScoreTable(method="jacobian", components=components, outline=like.outline, graph=like.graph)
    report(given, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    joined = re.findall(r"<tr><th class='([a-z ]*)'>([^<]*)</th>", page)
    assert joined == [("down", "blocks.0.attn"), ("up", "blocks.1.attn"), ("", "blocks.2.attn"), ("", "blocks.2.fc1")]


@needs_matplotlib
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


def test_a_picture_without_matplotlib_names_the_command_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingExtraError, match=r"matplotlib is not installed; .*: pip install matplotlib .*Pages need none"
    ):
        report(table(), tmp_path / "report.html", tmp_path / "report.png")
    assert not list(tmp_path.iterdir())
