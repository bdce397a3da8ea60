"""Pages in a real browser, as wide as a phone and as a desk: nothing runs off the side, and there is something to see.

Screenshots go to the folder that ``EDGEPLAST_SCREENSHOTS`` names, to look at; else they go with the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import hand_made_plan, small_vit

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.comparison import COMPARISON, Candidate, Comparison, Difference, Round

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "/usr/lib/chromium/chromium"))),
    None,
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium")]

CHARTS = {"adapted": 5, "evaluation": 1, "scores": 1, "contest": 3}
"""That a script draws when the page is opened; other pictures are tables."""

MEASURING = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"


def seen(page: Path, width: int, *asked: str) -> str:
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},2400"]
    command = [str(BROWSER), *words, f"--user-data-dir={page.parent / 'profile'}", *asked, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def contest() -> Comparison:
    """A contest in which candidates lie close together, and one was dropped early."""
    plan = hand_made_plan(small_vit(depth=4), "head")
    names = ["head", "last-k:2", "plasticity-branch", "attn", "norms", "blocks.2.attn,blocks.3.mlp.fc1,head"]
    candidates = tuple(
        Candidate(
            name=name, also=(), trained=("head",), parameters=1000 * (i + 1), predicted_peak_bytes=(60 + i) << 20,
            measured_peak_bytes=(58 << 20) + (i << 18), epoch_seconds=1 + 0.1 * i, round=1 if i == 5 else 2,
            accuracy=0.8 + 0.002 * i, calibration_error=0.05, seeds=2, outcome="chosen" if i == 0 else "not worse",
            difference=None if i == 4 else Difference(mean=-0.01, low=-0.03, high=0.01, pictures=40, seeds=2),
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    return Comparison(
        model="vit_small", data="photos", classes=("cat", "dog"), budget=edgeplast.Budget(memory_bytes=64 << 20),
        learning=90, held_out=40, held_out_from="train", candidates=candidates, plan=plan, chosen="head", best="norms",
        rounds=(Round(candidates=tuple(names), pictures=45, epochs=2, seeds=1),
                Round(candidates=tuple(names[:5]), pictures=90, epochs=4, seeds=2)),
        verdict="No difference that these pictures could show.", confidence=0.95, minutes=5, seconds=100,
        stopped_because="all rounds were run", runtime="onnxruntime 1.32.0", seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pages(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of each kind, of long names where a user chooses them."""
    pytest.importorskip("torch")
    from edgeplast.cli.app import run

    place = tmp_path_factory.mktemp("pages")
    options = edgeplast.TrainingOptions(epochs=1, learning_rate=1e-3)
    edgeplast.adapt(bundle, blobs, into=place / "adapted", options=options, budget=edgeplast.Budget())
    edgeplast.evaluate(bundle, blobs).write(place / "evaluation.json")
    edgeplast.score(small_vit(depth=4), blobs, pairs=2, others=("fisher",)).write(place / "scores.json")
    contest().write(place / "contest" / COMPARISON)
    for source in ("adapted", "evaluation.json", "scores.json", "contest"):
        assert run(["report", str(place / source), "-o", str(place / f"{Path(source).stem}.html")]) == 0
    return place


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", CHARTS)
def test_a_page_fits_its_window(name: str, width: int, pages: Path, tmp_path: Path) -> None:
    page = tmp_path / f"{name}.html"
    page.write_text((pages / f"{name}.html").read_text().replace("</body>", f"{MEASURING}</body>"))
    opened = seen(page, width, "--dump-dom")
    found = re.search(r"<title>(\d+) of (\d+)</title>", opened)
    assert found, "the browser ran no script"
    assert opened.count("<canvas") == CHARTS[name]
    assert int(found[1]) <= int(found[2]), f"{name} is {found[1]} pixels wide in a window of {found[2]}"
    kept = Path(os.environ.get("EDGEPLAST_SCREENSHOTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    picture = kept / f"{name}-{width}.png"
    seen(page, width, f"--screenshot={picture}")
    shown = np.asarray(Image.open(picture).convert("L"))
    assert shown.shape[1] == width and (shown < 200).any(axis=1).mean() > 0.2
