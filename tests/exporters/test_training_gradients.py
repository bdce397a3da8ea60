"""Gradients of exported training graphs equal torch autograd's, for every shape of transformer in the family."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from exporter_models import (
    assert_gradients_agree,
    forward_graph,
    labels,
    mean_targets,
    parameters,
    parameters_of,
    pictures,
    run_graph,
    small,
    torch_step,
    training_graph_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeplast.components import all_components
from edgeplast.errors import InputError
from edgeplast_exporters.training import promote, training_graph

FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "average pooling beside a class token": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "average pooling, no class token": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "average pooling, norm before it": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "class token, norm after it": ("vit_tiny_patch16_224", {"fc_norm": True}),
    "prefix tokens pooled too": ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}),
    "distillation token": ("deit_tiny_distilled_patch16_224", {}),
    "register tokens": ("vit_tiny_patch16_224", {"reg_tokens": 3}),
    "register tokens, averaged": ("vit_tiny_patch16_224", {"reg_tokens": 3, "global_pool": "avg"}),
    "positions for patches only": ("vit_tiny_patch16_224", {"reg_tokens": 2, "no_embed_class": True}),
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 0.1}),
    "query and key norms": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "inner norms": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "no bias in qkv": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "no bias in projections": ("vit_tiny_patch16_224", {"proj_bias": False}),
    "norm before the blocks": ("vit_tiny_patch16_224", {"pre_norm": True}),
    "no final norm": ("vit_tiny_patch16_224", {"final_norm": False}),
    "no position embedding": ("vit_tiny_patch16_224", {"pos_embed": "none"}),
    "norm in the patch embedding": ("vit_tiny_patch16_224", {"embed_norm_layer": "layernorm"}),
    "oblong pictures": ("vit_tiny_patch16_224", {"img_size": (16, 40)}),
    "pictures of any size, exported at one": ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
    "pictures of any size, oblong": ("vit_tiny_patch16_224", {"dynamic_img_size": True, "img_size": (16, 40)}),
    "one block": ("vit_tiny_patch16_224", {"depth": 1}),
    "one head": ("vit_tiny_patch16_224", {"num_heads": 1}),
    "packed SwiGLU": ("vit_giant_patch14_dinov2", {}),
    "RMS norms": ("vit_tiny_patch16_224", {"norm_layer": "rmsnorm", "qk_norm": True}),
    "QuickGELU": ("vit_base_patch16_clip_quickgelu_224", {}),
    "GELU by tanh": ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}),
    "ReLU": ("vit_tiny_patch16_224", {"act_layer": "relu"}),
    "SiLU": ("vit_tiny_patch16_224", {"act_layer": "silu"}),
}


def compare(model: nn.Module, names: list[str], batch: int = 3) -> None:
    images, answers = pictures(model, batch), labels(batch)
    expected = torch_step(model, names, images, answers)
    found = run_graph(training_graph_of(model, names), parameters(model), images, mean_targets(answers))
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5 * np.abs(expected.logits).max())
    assert_gradients_agree(found.gradients, expected.gradients)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_gradient_equals_autograd(kind: str) -> None:
    name, options = FAMILY[kind]
    model = small(name, **options)
    compare(model, [n for n, _ in model.named_parameters()])


def test_gated_mlps_with_separate_matrices() -> None:
    from timm.layers import SwiGLU

    model = small(mlp_layer=SwiGLU, scale_mlp_norm=True)
    compare(model, [n for n, _ in model.named_parameters()])


def test_gated_mlps_with_the_gate_in_the_second_half() -> None:
    from timm.layers import GluMlp

    model = small(mlp_layer=GluMlp, act_layer=nn.Sigmoid)
    compare(model, [n for n, _ in model.named_parameters()])


def test_gated_attention() -> None:
    from timm.layers import Attention

    class GatedAttention(Attention):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options, gated=True)

    model = small(attn_layer=GatedAttention)
    compare(model, [n for n, _ in model.named_parameters()])


def test_norms_of_torch_itself() -> None:
    """torch's own RMSNorm has no epsilon by default and takes the smallest step of the dtype instead."""
    model = small(norm_layer=partial(nn.RMSNorm, eps=None))
    compare(model, [n for n, _ in model.named_parameters()])


@pytest.mark.parametrize(
    "pattern", ["all", "attn", "attn:1", "norm1,norm2,norm", "fc1", "fc2:0", "head", "patch_embed", "blocks:0"]
)
@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_every_choice_of_what_trains(pattern: str, pooling: str) -> None:
    model = small(global_pool=pooling, init_values=0.5)
    compare(model, parameters_of(model, pattern))


@settings(deadline=None, max_examples=12)
@given(
    st.sets(st.sampled_from(all_components(2)), min_size=1),
    st.integers(1, 4),
    st.sampled_from(["token", "avg"]),
)
def test_any_subset_of_components(components: set[str], batch: int, pooling: str) -> None:
    model = small(embed_dim=16, num_heads=2, img_size=16, global_pool=pooling)
    names = parameters_of(model, ",".join(components))
    if names:  # with average pooling the component norm is fc_norm
        compare(model, names, batch)


def test_gradients_add_onto_what_the_accumulators_hold() -> None:
    model = small()
    names = [n for n, _ in model.named_parameters()]
    graph, images, answers = training_graph_of(model, names), pictures(model, 2), labels(2)
    fresh = run_graph(graph, parameters(model), images, mean_targets(answers))
    start = {n: np.full_like(g, 3.0) for n, g in fresh.gradients.items()}
    added = run_graph(graph, parameters(model), images, mean_targets(answers), start=start)
    for name, gradient in fresh.gradients.items():
        np.testing.assert_allclose(added.gradients[name], gradient + 3, rtol=1e-5, atol=1e-5, err_msg=name)


def test_micro_batches_add_up_to_the_batch() -> None:
    model = small()
    names = [n for n, _ in model.named_parameters()]
    graph, images, answers = training_graph_of(model, names), pictures(model, 16), labels(16)
    whole = run_graph(graph, parameters(model), images, mean_targets(answers))
    for size in (1, 4, 5):
        gradients: dict[str, np.ndarray] = {}
        loss = 0.0
        for at in range(0, 16, size):
            targets = mean_targets(answers[at : at + size], batch=16)
            part = run_graph(graph, parameters(model), images[at : at + size], targets, start=gradients)
            gradients, loss = part.gradients, loss + part.loss
        assert loss == pytest.approx(whole.loss, rel=1e-5)
        assert_gradients_agree(gradients, whole.gradients, 1e-5)


def test_smoothed_and_weighted_targets_give_torchs_cross_entropy() -> None:
    from edgeplast_devices.losses import CrossEntropy

    model = small()
    names = [n for n, _ in model.named_parameters()]
    images, answers = pictures(model, 5), labels(5)
    weights = np.array([0.5, 2.0, 1.0], np.float32)
    wanted = CrossEntropy(weights, 0.2)
    targets = wanted.targets(answers, wanted.mass(answers))
    found = run_graph(training_graph_of(model, names), parameters(model), images, targets)
    loss = nn.functional.cross_entropy(
        model(torch.from_numpy(images)),
        torch.from_numpy(answers),
        weight=torch.from_numpy(weights),
        label_smoothing=0.2,
    )
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
        reference = gradient.numpy().reshape(found.gradients[name].shape)
        np.testing.assert_allclose(found.gradients[name], reference, atol=1e-4 * max(np.abs(reference).max(), 1e-2))


def test_only_what_trains_costs_anything() -> None:
    """Nothing before the first trainable parameter is visited, and no frozen weight gets a gradient."""
    model = small(depth=3)
    graph = training_graph_of(model, parameters_of(model, "attn:2,head"))
    backward = [n for n in graph.nodes if n.phase == "backward"]
    assert {n.block for n in backward} == {None, 2}
    assert not any(n.component.endswith(("norm1", "patch_embed")) for n in backward)
    head = training_graph_of(model, parameters_of(model, "head"))
    assert {n.component for n in head.nodes if n.phase == "backward"} == {"loss", "head"}


def test_training_what_the_graph_does_not_read_is_refused() -> None:
    model = small()
    forward = forward_graph(model)
    with pytest.raises(InputError, match=r"head_dist\.weight cannot be trained"):
        promote(forward, ["head_dist.weight"])


def test_the_forward_graph_is_left_as_it_was() -> None:
    forward = forward_graph(small())
    before = list(forward.nodes), list(forward.inputs), list(forward.outputs), list(forward.weights)
    training_graph(promote(forward, ["head.weight"]), ["head.weight"])
    assert before == (forward.nodes, forward.inputs, forward.outputs, forward.weights)
