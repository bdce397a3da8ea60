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
from small_models import small_vit

import edgeplast
from edgeplast.bundle import Bundle

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "/usr/lib/chromium/chromium"))),
    None,
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium")]

CHARTS = {"adapted": 5, "evaluation": 1, "scores": 0}
"""That a script draws when the page is opened; those of scores are drawn before."""

MEASURING = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"


def seen(page: Path, width: int, *asked: str) -> str:
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},2400"]
    command = [str(BROWSER), *words, f"--user-data-dir={page.parent / 'profile'}", *asked, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


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
    for source in ("adapted", "evaluation.json", "scores.json"):
        assert run(["report", str(place / source), "-o", str(place / f"{Path(source).stem}.html")]) == 0
    return place


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["adapted", "evaluation", "scores"])
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
