"""The optimizers step as torch's do; the schedule follows its closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeplast.errors import UsageError
from edgeplast_devices.optimizers import forget, gradient_norm, make_optimizer
from edgeplast_devices.schedules import learning_rate

torch = pytest.importorskip("torch", reason="the optimizers are compared with torch's")

SHAPES = {"matrix": (40, 900), "bias": (40,), "token": (1, 1, 7), "scalar": ()}


def _arrays(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(scale * rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


def _torch_twin(name: str, start: dict[str, np.ndarray], decay: float, **how: float):
    tensors = {key: torch.nn.Parameter(torch.from_numpy(array.copy())) for key, array in start.items()}
    groups = [
        {"params": [t for t in tensors.values() if t.ndim >= 2], "weight_decay": decay},
        {"params": [t for t in tensors.values() if t.ndim < 2], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
    return tensors, kind(groups, lr=1.0, **how)


@pytest.mark.parametrize(
    ("name", "decay", "momentum"), [("adamw", 0.05, 0.9), ("adamw", 0.0, 0.9), ("sgd", 0.01, 0.9), ("sgd", 0.0, 0.0)]
)
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_twenty_steps_equal_torch(name: str, decay: float, momentum: float, clip: float) -> None:
    ours = _arrays(0)
    how = {"momentum": momentum} if name == "sgd" else {}
    theirs, twin = _torch_twin(name, ours, decay, **how)
    optimizer = make_optimizer(name, ours, weight_decay=decay, momentum=momentum)
    for step in range(20):
        gradients, rate = _arrays(step + 1, scale=10.0 ** (step % 3 - 2)), 1e-2 / (step + 1)
        for key, tensor in theirs.items():
            tensor.grad = torch.from_numpy(gradients[key].copy())
        norm = gradient_norm(gradients)
        if clip:
            torch_norm = torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
            assert norm == pytest.approx(float(torch_norm), rel=1e-5)
        for group in twin.param_groups:
            group["lr"] = rate
        twin.step()
        optimizer.update(gradients, rate, min(1.0, clip / norm) if clip else 1.0)
    for key, tensor in theirs.items():
        np.testing.assert_allclose(ours[key], tensor.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_parameter_with_a_rate_of_its_own_steps_as_alone_at_that_rate(name: str) -> None:
    together, alone, rest = _arrays(0), _arrays(0), _arrays(0)
    optimizers = [make_optimizer(name, arrays, weight_decay=0.05) for arrays in (together, alone, rest)]
    for step in range(3):
        gradients = _arrays(step + 1)
        optimizers[0].update(gradients, 1e-3, rate_factors={"matrix": 15.0})
        optimizers[1].update(gradients, 15e-3)
        optimizers[2].update(gradients, 1e-3)
    np.testing.assert_array_equal(together["matrix"], alone["matrix"])
    for key in SHAPES.keys() - {"matrix"}:
        np.testing.assert_array_equal(together[key], rest[key])


def test_an_update_changes_the_arrays_it_was_given_in_place() -> None:
    arrays = _arrays(0)
    before = {name: (id(array), array.copy()) for name, array in arrays.items()}
    make_optimizer("adamw", arrays).update(_arrays(1), 1e-3)
    for name, array in arrays.items():
        assert id(array) == before[name][0] and not np.array_equal(array, before[name][1])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_is_forgotten_frees_its_state_and_the_rest_goes_on(name: str) -> None:
    arrays, gradients = _arrays(0), _arrays(1)
    optimizer = make_optimizer(name, arrays)
    forget(optimizer, "matrix")
    assert not any(key.endswith("/matrix") for key in optimizer.state) and any(
        key.endswith("/bias") for key in optimizer.state
    )
    gradients.pop("matrix")
    kept = arrays["matrix"].copy()
    optimizer.update(gradients, 0.1)
    np.testing.assert_array_equal(arrays["matrix"], kept)


def test_an_unknown_optimizer_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Did you mean 'adamw'"):
        make_optimizer("adam", {})


def test_the_norm_of_gradients_beyond_float32_is_not_finite_and_quiet(recwarn: pytest.WarningsRecorder) -> None:
    huge = {"a": np.full(10, 1e30, np.float32)}
    assert gradient_norm(huge) == math.inf
    assert math.isnan(gradient_norm({"a": np.array([np.nan], np.float32)}))
    assert not recwarn.list


@given(st.integers(1, 400), st.floats(0, 1), st.floats(1e-6, 10))
def test_the_cosine_schedule_follows_its_closed_form(total: int, warmup: float, peak: float) -> None:
    warm = round(warmup * total)
    rates = [learning_rate(step, total, peak=peak, warmup_steps=warm, schedule="cosine") for step in range(total + 1)]
    for step, rate in enumerate(rates[:total]):
        if step < warm:
            assert rate == pytest.approx(peak * (step + 1) / warm)
        else:
            assert rate == pytest.approx(peak * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2)
    assert max(rates) <= peak * (1 + 1e-12) and (warm == total or rates[total] == pytest.approx(0, abs=1e-12))


def test_the_constant_schedule_stays_at_its_peak() -> None:
    rates = [learning_rate(step, 10, peak=2.0, warmup_steps=2, schedule="constant") for step in range(10)]
    assert rates == [1.0, 2.0] + [2.0] * 8
    with pytest.raises(UsageError, match="Known: cosine, constant"):
        learning_rate(0, 1, peak=1.0, warmup_steps=0, schedule="linear")
