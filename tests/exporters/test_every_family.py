"""One model of each of timm's module files is captured with torch's logits and gradients, or refused as listed here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exporter_models import assert_gradients_agree, labels, mean_targets, run_graph
from torch import nn

from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast.models import import_timm, input_shape_of
from edgeplast_exporters.capture import Captured, capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.training import promote, training_graph

FAMILIES: dict[str, str] = json.loads(Path(__file__).with_name("one_of_each_family.json").read_text())
"""timm's module file to the smallest model in it."""

REFUSED = {
    "csatv2": r"stages\.0\.0\.attn\.attn: the operator matmul .*mixes images",
    "gemma4_vit": r"returns a tensor of shape \(2, \d+, 768\)",
    "mvitv2": r"stages\.0\.blocks\.0\.attn: the operator copy_ has no translation here",
    "sequencer": r"stages\.0\.blocks\.0\.rnn_tokens\.rnn_v: the operator lstm has no translation here",
}
"""What is refused, and in which words."""

FAULTS = {
    "byoanet": "with these random numbers torch's own float32 gradients are off by 4e-4, the graph's by 1e-2",
    "naflexvit": "the gradient of embeds.pos_embed is off by 6e-2",
    "visformer": "logits are off by 1.1e-3 of the largest",
    "qwen3_vit": "logits agree within 6e-7; all gradients of the whole model were not compared yet",
    "deepseek_vit": "not tried again since an empty cut of rotary positions has a form",
}
"""What is not as it should be yet, and what is known of it."""

UNTRIED = {"qwen3_vit", "deepseek_vit"}
"""Faults that may be mended: what they give is not known."""


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A model with random numbers everywhere, on the smallest pictures that it takes."""
    torch.manual_seed(0)
    model: nn.Module = import_timm().create_model(name, num_classes=3).eval()
    for key, p in model.named_parameters():
        if p.ndim == 1 or not p.detach().any():
            nn.init.normal_(p.data, mean=1.0 if p.ndim == 1 and not key.endswith("bias") else 0.0, std=0.1)
    for key, b in model.named_buffers():
        if key.endswith("running_mean"):
            b.normal_(std=0.2)
        elif key.endswith("running_var"):
            b.uniform_(0.6, 1.6)
    full = input_shape_of(model)
    fixed = model.default_cfg.get("fixed_input_size")
    for shape in [full] if fixed else [(3, side, side) for side in (64, 96, 128)]:
        try:
            with torch.no_grad():
                model(torch.zeros(2, *shape))
        except (RuntimeError, AssertionError, ValueError):
            continue
        return model, shape
    return model, full


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(f, marks=[pytest.mark.xfail(reason=FAULTS[f], strict=f not in UNTRIED)] if f in FAULTS else [])
        for f in sorted(FAMILIES)
    ],
)
def test_one_model_of_each_family(family: str) -> None:
    model, shape = made(FAMILIES[family])
    if family in REFUSED:
        with pytest.raises(InputError, match=REFUSED[family]):
            capture(model, shape)
        return
    captured = capture(model, shape, name=FAMILIES[family])
    assert check_parity(model, captured) < 1e-4
    training = training_graph(promote(captured.graph, [*captured.parameters]), [*captured.parameters])
    try:
        compare_gradients(model, captured, training, shape, seed=0)
    except AssertionError:  # one number within rounding of a kink takes its other side; a wrong rule is always wrong
        for seed in (1, 2):
            compare_gradients(model, captured, training, shape, seed=seed)


def compare_gradients(
    model: nn.Module, captured: Captured, training: Graph, shape: tuple[int, int, int], *, seed: int
) -> None:
    """Compare the gradients of all parameters with autograd's, for two pictures of random numbers."""
    images = np.random.default_rng(seed).standard_normal((2, *shape), dtype=np.float32)
    answers = labels(2)
    found = run_graph(training, captured.weights, images, mean_targets(answers))
    loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(answers))
    chosen = dict(model.named_parameters())
    gradients = zip(chosen, torch.autograd.grad(loss, list(chosen.values())), strict=True)
    expected = {n: g.numpy().reshape(captured.parameters[n].shape) for n, g in gradients}
    assert_gradients_agree(found.gradients, expected)
