"""Rivals that need a backward pass: each a small formula over tensors, fed by one batch of pictures after another.

All are measured on whole components: their tensors are taken together. Standard errors are over batches of
:data:`BATCH` pictures, or over pictures where the formula is a mean over pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeplast.errors import InputError, UsageError
from edgeplast.scoring.bodies import Body
from edgeplast.scoring.examples import check_labels, draw_pictures, labels_of
from edgeplast.scoring.heads import own_head_is_useful
from edgeplast.scoring.job import Estimate, Job, in_chunks
from edgeplast.scoring.moments import accumulate
from edgeplast.scoring.running import heard_by, naming

Tensors = Sequence[torch.Tensor]

BATCH = 8
TRIAL_RATE = 1e-4


def rgn_formula(gradient: Tensors, weights: Tensors) -> float:
    """‖g‖₂ / ‖θ‖₂, g the gradient of a batch's mean loss; any shapes, the same in both lists.

    Source: relative gradient norm, Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution
    Shifts", arXiv 2210.11466 (there tensor by tensor, averaged over batches).
    """
    return _norm(gradient) / max(_norm(weights), 1e-12)


def snr_formula(mean: Tensors, variance: Tensors) -> float:
    """Mean over parameters of ḡ² / (var(g) + 1e-8); mean and unbiased variance over the pictures of a batch.

    Source: Auto-SNR, Lee et al. (as above), after Mahsereci et al., arXiv 1703.09580. Their code takes the
    variance over the first dimension of one batch's gradient, for want of gradients of single pictures.
    """
    ratios = [m.square() / (v + 1e-8) for m, v in zip(mean, variance, strict=True)]
    return float(sum(float(r.sum()) for r in ratios) / sum(r.numel() for r in ratios))


def fisher_formula(gradient: Tensors) -> float:
    """Mean over parameters of (∂ log p(y|x) / ∂θ)² for one picture x, y drawn from the model's own p(·|x).

    Its mean over pictures is the average diagonal entry of the Fisher information. Source: as used for masks
    by Sung, Nair and Raffel, "Training Neural Networks with Fixed Sparse Masks", arXiv 2111.09839.
    """
    return sum(float(g.square().sum()) for g in gradient) / sum(g.numel() for g in gradient)


def sensitivity_formula(gradient: Tensors) -> float:
    """Σ over parameters of g² for one batch; the score is the sum over batches.

    Source: He et al., "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning", arXiv 2303.08566, whose code
    adds the squared gradients of batches parameter by parameter.
    """
    return sum(float(g.square().sum()) for g in gradient)


def elastic_formula(gradient: Tensors, update: Tensors) -> float:
    """-Σ g·Δw: Δw one trial step of the optimizer, g the gradient after that step.

    Source: Huang, Yang and Gao, "ElasticTrainer", MobiSys 2023; their code takes the second gradient, too.
    """
    return -sum(float((g * u).sum()) for g, u in zip(gradient, update, strict=True))


def activation_fisher_formula(activations: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """½ Σ over channels of (Σ over tokens a·g)², for each picture.

    Source: Kwon et al., "TinyTrain", arXiv 2307.09988: ½ mean over pictures of (Σ_d a·g)² for each channel,
    summed over a layer's channels.

    Args:
        activations: (B, N, C) a component's output; of a feature map, N are the places.
        gradient: (B, N, C), of each picture's own loss.

    Returns:
        (B,) float64; the score is the mean over pictures.
    """
    return 0.5 * (activations * gradient).double().sum(dim=1).square().sum(dim=1)


def rgn(job: Job) -> dict[str, Estimate]:
    """Relative gradient norm of each component; see :func:`rgn_formula`."""

    def measure(parts: Parts, batch: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        gradient = parts.gradient(batch, labels)
        return {n: rgn_formula(parts.of(n, gradient), parts.of(n, parts.weights)) for n in parts.names}

    return _over_batches(job, "rgn", measure)


def snr(job: Job) -> dict[str, Estimate]:
    """Signal-to-noise ratio of each component's gradient; see :func:`snr_formula`.

    The last batch is left out if it holds one picture: it has no variance.
    """

    def measure(parts: Parts, batch: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        if len(batch) < 2:
            return {}
        mean = {k: torch.zeros_like(v) for k, v in parts.weights.items()}
        m2 = {k: torch.zeros_like(v) for k, v in parts.weights.items()}
        for i in range(len(batch)):  # Welford, so that memory is two models however many pictures
            for k, g in parts.gradient(batch[i : i + 1], labels[i : i + 1]).items():
                step = g - mean[k]
                mean[k] += step / (i + 1)
                m2[k] += step * (g - mean[k])
        variance = {k: v / (len(batch) - 1) for k, v in m2.items()}
        return {n: snr_formula(parts.of(n, mean), parts.of(n, variance)) for n in parts.names}

    return _over_batches(job, "snr", measure)


def sensitivity(job: Job) -> dict[str, Estimate]:
    """Summed squared gradients of each component; see :func:`sensitivity_formula`."""

    def measure(parts: Parts, batch: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        gradient = parts.gradient(batch, labels)
        return {n: sensitivity_formula(parts.of(n, gradient)) for n in parts.names}

    means = _over_batches(job, "sensitivity", measure)
    return {k: Estimate(e.score * e.samples, e.standard_error * e.samples, e.samples) for k, e in means.items()}


def elastic(job: Job) -> dict[str, Estimate]:
    """What one trial step of plain gradient descent (rate 1e-4) gains by each component.

    See :func:`elastic_formula`; the mean over batches, each with its own step from the given weights.
    """

    def measure(parts: Parts, batch: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        update = {k: -TRIAL_RATE * g for k, g in parts.gradient(batch, labels).items()}
        after = parts.gradient(batch, labels, step=update)
        return {n: elastic_formula(parts.of(n, after), parts.of(n, update)) for n in parts.names}

    return _over_batches(job, "elastic", measure)


def fisher(job: Job) -> dict[str, Estimate]:
    """Mean diagonal Fisher information of each component; see :func:`fisher_formula`.

    Needs no labels where the model has a head of its own that is not zero; otherwise the probe of
    :mod:`edgeplast.scoring.heads`, which does.
    """
    if own_head_is_useful(job.model):
        model = job.model
    else:
        check_labels(job.images, "fisher")
        model = job.labelled
    parts = Parts(model, job.body())

    def measure(indices: list[int]) -> np.ndarray:
        rows = []
        for i in indices:
            batch = job.batch([(job.images, i)])
            label = _drawn_label(parts.logits(batch), (job.seed, i), batch.device)
            gradient = parts.gradient(batch, label)
            rows.append([fisher_formula(parts.of(name, gradient)) for name in parts.names])
        return parts.checked(np.array(rows))

    indices = draw_pictures(job.images, job.pairs, job.seed)
    moments = accumulate(in_chunks(indices, BATCH), measure, len(parts.names), "fisher", job.progress)
    return job.estimates("fisher", parts.names, moments, f"{len(indices)} pictures")


def activation_fisher(job: Job) -> dict[str, Estimate]:
    """Squared activation-times-gradient of each component's output; see :func:`activation_fisher_formula`."""
    check_labels(job.images, "activation-fisher")
    model = job.labelled
    body = job.body(model=model)  # values are heard at modules of the model that runs
    sinks = list(dict.fromkeys(tap for unit in body.units for tap in unit.sink))
    weights = {k: v.detach().requires_grad_() for k, v in model.named_parameters()}

    def measure(indices: list[int]) -> np.ndarray:
        batch, labels = _labelled_batch(job, indices)
        with torch.enable_grad():
            logits, heard = body.forward(model, batch, weights, lambda _tap, value: value)
            loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            for unit in body.units:
                heard_by(unit, unit.sink, heard)
            gradients = dict(zip(sinks, torch.autograd.grad(loss, [heard[tap] for tap in sinks]), strict=True))
        rows = [
            sum(
                activation_fisher_formula(
                    *(body.by_channel(t, x, len(indices)) for x in (heard[t].detach(), gradients[t]))
                )
                for t in unit.sink
            )
            for unit in body.units
        ]
        values = torch.stack([torch.as_tensor(row) for row in rows], dim=1).cpu().numpy()
        return _checked(values, [unit.name for unit in body.units])

    indices = draw_pictures(job.images, job.pairs, job.seed)
    names = [unit.name for unit in body.units]
    moments = accumulate(in_chunks(indices, BATCH), measure, len(names), "activation-fisher", job.progress)
    return job.estimates("activation-fisher", names, moments, f"{len(indices)} pictures")


class Parts:
    """A model's parameters sorted by unit, and gradients with respect to them that leave the model alone.

    Attributes:
        names: unit names.
        weights: parameter name to a detached view of it.
    """

    def __init__(self, model: nn.Module, body: Body) -> None:
        self._model, self._body = model, body
        self._parts = {name: owned for name, owned in body.parts().items() if owned}
        self.names = list(self._parts)
        inside = {name for owned in self._parts.values() for name, _ in owned}
        self.weights = {k: v.detach() for k, v in model.named_parameters() if k in inside}
        if not self.names:
            raise UsageError("This model has no parameters in its blocks, so gradient scores mean nothing for it.")

    def of(self, name: str, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return what belongs to one unit."""
        return [tensors[parameter][index] for parameter, index in self._parts[name]]

    @torch.no_grad()
    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the model's answers to a batch, (B, classes)."""
        return self._body.forward(self._model, batch, {})[0]

    def gradient(
        self, batch: torch.Tensor, labels: torch.Tensor, step: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Gradient of the batch's mean cross-entropy, at the weights or a step away from them."""
        values = {k: v if step is None else v + step[k] for k, v in self.weights.items()}
        with torch.enable_grad(), naming("the model"):
            leaves = {k: v.detach().requires_grad_() for k, v in values.items()}
            logits, _ = self._body.forward(self._model, batch, leaves)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {
            k: torch.zeros_like(leaf) if g is None else g.detach()
            for (k, leaf), g in zip(leaves.items(), found, strict=True)
        }

    def checked(self, values: np.ndarray) -> np.ndarray:
        """Return the values (S, C), or raise naming the first unit that has one that is not finite."""
        return _checked(values, self.names)


def _over_batches(
    job: Job, method: str, measure: Callable[[Parts, torch.Tensor, torch.Tensor], dict[str, float]]
) -> dict[str, Estimate]:
    check_labels(job.images, method)
    parts = Parts(job.labelled, job.body())

    def of_batch(indices: list[int]) -> np.ndarray:
        values = measure(parts, *_labelled_batch(job, indices))
        if not values:
            return np.empty((0, len(parts.names)))
        return parts.checked(np.array([[values[name] for name in parts.names]]))

    chunks = in_chunks(draw_pictures(job.images, job.pairs, job.seed), BATCH)
    moments = accumulate(chunks, of_batch, len(parts.names), method, job.progress)
    return job.estimates(method, parts.names, moments, f"{int(moments.count.max())} batches")


def _labelled_batch(job: Job, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = job.batch([(job.images, i) for i in indices])
    return batch, labels_of(job.images, indices).to(batch.device)


def _drawn_label(logits: torch.Tensor, seed: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Draw a class from the model's own prediction, on the host, from integers alone."""
    probabilities = logits[0].double().softmax(-1).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise InputError("head: the model's outputs are NaN or infinite. Are the weights complete and in range?")
    drawn = np.random.default_rng(seed).choice(len(probabilities), p=probabilities / probabilities.sum())
    return torch.tensor([int(drawn)], device=device)


def _checked(values: np.ndarray, names: list[str]) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=0))
    if len(bad):
        raise InputError(
            f"{names[bad[0]]}: its gradient is NaN or infinite. Are the weights complete and in range? "
            "A half-precision model may overflow: convert it with model.float()."
        )
    return values


def _norm(tensors: Tensors) -> float:
    total: Any = sum(float(t.double().square().sum()) for t in tensors)
    return float(total) ** 0.5
