"""Targets of losses without labels: what the training graph makes of them is the loss's gradient, by autograd."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast_devices.objectives import CONFIDENCE, ENTROPY_SHARE, OBJECTIVES

torch = pytest.importorskip("torch", reason="gradients are compared with torch's")


def reference(method: str, logits: torch.Tensor) -> torch.Tensor:
    """The loss as its paper writes it."""
    p = torch.softmax(logits, 1)
    each = -(p * torch.log_softmax(logits, 1)).sum(1)
    if method == "entropy":
        limit = ENTROPY_SHARE * float(np.log(logits.shape[1]))
        return (torch.where(each < limit, torch.exp(limit - each.detach()), 0.0) * each).mean()
    if method in ("information", "shot"):
        mean = p.mean(0)
        return each.mean() + (mean * mean.log()).sum()
    sure = p.max(1).values >= CONFIDENCE
    return (torch.nn.functional.cross_entropy(logits, p.argmax(1), reduction="none") * sure).mean()


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(sorted(OBJECTIVES)),
    pictures=st.integers(1, 12),
    classes=st.integers(2, 8),
    spread=st.sampled_from([0.1, 2.0, 10.0]),
    seed=st.integers(0, 1000),
)
def test_the_graphs_gradient_is_autograds(method: str, pictures: int, classes: int, spread: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, spread, (pictures, classes))
    value, targets = OBJECTIVES[method](logits)
    there = torch.from_numpy(logits).requires_grad_()
    loss = reference(method, there)
    (gradient,) = torch.autograd.grad(loss, there)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    assert value == pytest.approx(loss.item(), rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(p * targets.sum(1, keepdims=True) - targets, gradient.numpy(), atol=1e-9)


@pytest.mark.parametrize("method", sorted(OBJECTIVES))
def test_large_logits_stay_finite(method: str) -> None:
    value, targets = OBJECTIVES[method](np.array([[1e4, -1e4, 0], [-3e4, 3e4, 2e4]], np.float32))
    assert np.isfinite(value) and np.isfinite(targets).all()


def test_one_class_for_all_is_worse_than_many() -> None:
    """Being sure of the same answer for every picture is what entropy alone would like best."""
    same, different = np.eye(3)[[0, 0, 0]] * 20, np.eye(3) * 20
    assert OBJECTIVES["entropy"](same)[0] == pytest.approx(OBJECTIVES["entropy"](different)[0])
    assert OBJECTIVES["information"](different)[0] < OBJECTIVES["information"](same)[0] - 1
