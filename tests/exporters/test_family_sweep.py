"""Every model that timm registers for the family is exported with proof, or refused with a clear message."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from exporter_models import (
    assert_gradients_agree,
    labels,
    mean_targets,
    parameters,
    parameters_of,
    pictures,
    randomised,
    run_graph,
    torch_step,
    training_graph_of,
)

from edgeplast.errors import EdgeplastError
from edgeplast.models import describe, import_timm
from edgeplast_exporters.parity import check_forward


def registered() -> list[str]:
    timm = import_timm()
    return sorted({*timm.list_models(module="vision_transformer"), *timm.list_models(module="deit")})


def tiny_version(name: str) -> torch.nn.Module:
    """The model with one block, narrow, and a few patches, as far as timm lets it be shrunk."""
    patch = int(match.group(1)) if (match := re.search(r"patch(\d+)", name)) else 16
    smallest: dict[str, Any] = {"num_classes": 3, "img_size": 2 * patch, "depth": 1, "embed_dim": 32, "num_heads": 4}
    for left_out in ((), ("embed_dim", "num_heads"), ("embed_dim", "num_heads", "img_size")):
        try:
            options = {k: v for k, v in smallest.items() if k not in left_out}
            return randomised(import_timm().create_model(name, **options))
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            reason = error
    raise reason


@pytest.mark.slow
def test_every_registered_model_is_exported_or_refused_clearly() -> None:
    counts: Counter[str] = Counter()
    refusals: dict[str, list[str]] = {}
    for name in registered():
        model = tiny_version(name)
        try:
            describe(model, name)
            assert check_forward(model) < 1e-4, name
        except EdgeplastError as error:
            assert len(str(error)) > 40, name
            reason = re.sub(r"'[^']*'|\(.*|blocks\.0\.?", "…", str(error).replace(name, "…"))[:110]
            refusals.setdefault(reason, []).append(name)
            counts["refused"] += 1
            continue
        trained = parameters_of(model, "attn,norm1,fc1,head")
        images, answers = pictures(model, 2), labels(2)
        found = run_graph(training_graph_of(model, trained), parameters(model), images, mean_targets(answers))
        assert_gradients_agree(found.gradients, torch_step(model, trained, images, answers).gradients)
        counts["exported"] += 1
    print(dict(counts))
    for reason, names in refusals.items():
        print(f"{len(names):3d}  {reason}\n     {', '.join(names)}")
    assert counts["exported"] > 4 * counts["refused"]
