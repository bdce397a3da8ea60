"""Nouns show themselves in a notebook, and draw themselves where matplotlib is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_models import hand_made_plan, small_bundle, small_vit

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import MissingExtraError, UsageError
from edgeplast.evaluation import Evaluation
from edgeplast.scores import ScoreTable


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ScoreTable:
    pytest.importorskip("torch", reason="scores are made on a workstation")
    from small_models import blob_folder

    photos = blob_folder(tmp_path_factory.mktemp("photos"), train=2, test=0)
    return edgeplast.score(small_vit(), photos, pairs=2, others=("fisher",))


def texts(plot: object) -> str:
    return plot._repr_svg_()  # type: ignore[attr-defined, no-any-return]


def test_scores_are_a_table_and_a_heatmap(table: ScoreTable) -> None:
    pytest.importorskip("matplotlib")
    shown = table._repr_html_()
    best = table.ranking()[0]
    assert f"<td>{best}</td>" in shown and "plasticity-branch score ± 95 %" in shown
    assert "block (0 is nearest the input)" in texts(table.plot()) and "fisher score" in texts(table.plot("fisher"))
    with pytest.raises(UsageError, match="Unknown score method in this table 'magic'"):
        table.plot("magic")


def test_a_plan_is_a_picture_of_blocks(table: ScoreTable) -> None:
    pytest.importorskip("matplotlib")
    plan = edgeplast.plan(table, train="attn:1,head")
    assert "blocks.1.attn, head" in plan._repr_html_()
    drawn = texts(plan.plot())
    assert "trains" in drawn and "frozen, 8 bits" in drawn and "frozen, 4 bits" not in drawn
    blue = "#1f5fa8"
    axes = plan.plot().axes[0]
    import matplotlib.colors

    trained = [p for p in axes.patches if matplotlib.colors.to_hex(p.get_facecolor()) == blue]
    assert len(trained) == 2 and len(axes.patches) == len(plan.components)


def test_an_adaptation_draws_its_losses(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = edgeplast.TrainingOptions(epochs=1, learning_rate=1e-3)
    report = edgeplast.adapt(bundle, blobs, into=tmp_path / "a", options=options, budget=edgeplast.Budget())
    assert f"{report.accuracy.after:.1%}" in report._repr_html_()
    left, right = report.plot().axes
    assert len(left.lines[0].get_xdata()) == len(report.losses)
    assert [round(v, 6) for v in right.lines[-1].get_ydata()] == [
        round(100 * (v or 0), 6) for v in (report.accuracy.before, report.accuracy.after)
    ]


def test_without_matplotlib_a_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "edgeplast.reporting.plots", raising=False)
    with pytest.raises(
        MissingExtraError, match=r"matplotlib is not installed; plots need it\. Install it: pip install matplotlib"
    ):
        hand_made_plan(small_vit(), "head").plot()


def test_a_device_that_reads_reports_loads_no_drawing_library(tmp_path: Path) -> None:
    small_bundle(tmp_path / "b", train="")
    script = (
        f"import sys, edgeplast; b = edgeplast.Bundle.open({str(tmp_path / 'b')!r}); b.manifest.plan._repr_html_(); "
        "assert not {'matplotlib', 'edgeplast.reporting.plots', 'torch'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_evaluation_becomes_a_page(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    from edgeplast.cli.app import run

    words = ["evaluate", str(bundle.path), "--data", str(blobs), "-o", str(tmp_path / "evaluation.json")]
    assert run(words) == 0 and run(words) == 2
    found = Evaluation.read(tmp_path / "evaluation.json")
    assert (
        found.most_wrong and run(["report", str(tmp_path / "evaluation.json"), "-o", str(tmp_path / "page.html")]) == 0
    )
    page = (tmp_path / "page.html").read_text()
    assert "<table class=confusion>" in page and page.count("<div class=chart>") == 1
    assert "in brackets its 95 % interval" in page
    for each in found.most_wrong:
        assert f"<th>{each.image}</th><td>{each.label}</td>" in page
    assert "<th>precision</th>" in found._repr_html_()
    pytest.importorskip("matplotlib")
    assert len(found.plot().subfigs) == 2
