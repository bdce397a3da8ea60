"""Python on the pages: it compiles, the names and arguments it uses exist, and it runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import KWARGS, MODEL, PAGES, ROOT, SIDE, Block, blocks

import edgeplast

SNIPPETS = [block for page in PAGES for block in blocks(page, "python")]
RUN = sorted({block.page for block in SNIPPETS if block.page.is_relative_to(ROOT / "docs")})


def _named(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """What an expression of names and attributes stands for, None if that is not known before it runs."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, known)
        return None if owner is None else getattr(owner, node.attr)
    return None


@pytest.mark.parametrize("block", SNIPPETS, ids=_named)
def test_a_snippet_uses_what_exists(block: Block) -> None:
    pytest.importorskip("torch", reason="snippets of the workstation import it")
    tree = ast.parse(block.text)
    known: dict[str, Any] = {"edgeplast": edgeplast}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {(a.asname or a.name).partition(".")[0]: importlib.import_module(a.name) for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _value(node.func, known)
        if called is None or not getattr(called, "__module__", "").startswith("edgeplast"):
            continue
        inspect.signature(called).bind(*node.args, **{word.arg: word.value for word in node.keywords if word.arg})


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_the_snippets_of_a_page_run_in_its_order(
    page: Path, desk: Path, clear: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from edgeplast import models

    load = models.load_model

    def small(name: str, *, checkpoint: Path) -> Any:
        return load(MODEL, checkpoint=checkpoint, image_size=(int(SIDE),) * 2, options=json.loads(KWARGS))

    monkeypatch.setattr(models, "load_model", small)
    if page.name == "ort-training.md":
        pytest.importorskip("onnxruntime.training.api", reason="its API is in the training build of onnxruntime")
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Call):
                written = [word.value for word in node.keywords if word.arg == "into"]
                written += node.args[1:2] if ast.unparse(node.func).endswith("deploy") else []
                for value in written:
                    if isinstance(value, ast.Constant):
                        clear(value.value)
        text = block.text.replace("memory_bytes=256 << 20", "memory_bytes=None")  # this process is larger than that
        text = text.replace('memory="256MiB"', 'memory="none"').replace('Budget("256MiB")', "Budget()")
        exec(compile(text, _named(block), "exec"), names)


def test_what_the_page_for_the_training_api_starts_with_brings_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime.training.api", reason="its API is in the training build of onnxruntime")
    (beginning,) = blocks(ROOT / "docs/how-to/ort-training.md", "py")
    script = f"{beginning.text}\nassert 'torch' not in sys.modules and Module.__call__"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_the_reference_shows_every_public_name() -> None:
    shown = (ROOT / "docs/reference/python.md").read_text()
    for name in edgeplast.__all__:
        if name != "__version__":
            assert f".{name}\n" in shown or f"{name}," in shown, name


def test_the_deployed_file_is_what_the_page_for_other_languages_says(desk: Path) -> None:
    import onnx
    from PIL import Image

    from edgeplast_devices.images import preprocess
    from edgeplast_devices.predicting import Classifier

    page = (ROOT / "docs/how-to/cpp.md").read_text()
    model = onnx.load(desk / "model.onnx")
    (given,), (answer,) = model.graph.input, model.graph.output
    assert (
        (given.name, answer.name) == ("images", "logits") and f"`{given.name}`" in page and f"`{answer.name}`" in page
    )
    assert {entry.key for entry in model.metadata_props} == set(re.findall(r"`(edgeplast\.\w+)` \|", page))
    assert model.opset_import[0].version == 17 and "opset 17" in page

    how = Classifier(desk / "model.onnx").preprocessing
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    side, short = how.image_size[0], math.floor(how.image_size[0] / how.crop_fraction)
    resized = picture.resize((round(short * 90 / 60), short), Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in resized.size)
    cut = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32)
    by_hand = ((cut / 255 - np.array(how.mean)) / np.array(how.std)).transpose(2, 0, 1)
    np.testing.assert_allclose(by_hand, preprocess(picture, how), atol=1e-5)
