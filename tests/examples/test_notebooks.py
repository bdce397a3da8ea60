"""Notebooks run from their first cell to their last, and are kept without what they showed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "examples" / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str = "code") -> list[str]:
    notebook: dict[str, Any] = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def as_script(path: Path) -> str:
    """The cells one after the other; what a cell ends with is shown as a notebook would show it."""
    lines = ["def show(value):", "    shown = [f for f in ('_repr_svg_', '_repr_html_') if hasattr(value, f)]"]
    lines += ["    print('shown:', *(len(getattr(value, f)()) for f in shown[:1]), type(value).__name__)"]
    for text in cells(path):
        tree = ast.parse(text)
        if isinstance(tree.body[-1], ast.Expr) and not text.rstrip().endswith(";"):
            last = ast.unparse(tree.body.pop())
            lines += [ast.unparse(tree), f"show({last})"]
        else:
            lines.append(text)
    return "\n".join(lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert cells(path, "markdown")[0].startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    for needed in ("torch", "sklearn", "matplotlib"):
        pytest.importorskip(needed, reason="notebooks are for workstations")
    place = tmp_path / "notebooks"
    place.mkdir()
    (tmp_path / "quickstart").symlink_to(path.parents[1] / "quickstart")
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", as_script(path)], cwd=place, capture_output=True, text=True, env=settings
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("shown:")]
    assert shown.count("Plot") >= 2 and ("ScoreTable" in shown or "Comparison" in shown)


def test_there_are_notebooks_for_scoring_and_for_comparing_plans() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["comparing", "scoring"]
