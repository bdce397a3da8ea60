"""Upper bounds of plasticity: no pair of pictures like those seen can move a component's output further."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeplast.errors import InputError, UsageError
from edgeplast.scoring.anatomy import Anatomy, Tap, dissect, head_slices
from edgeplast.scoring.examples import Picture, draw_pairs
from edgeplast.scoring.job import Estimate, Job, in_chunks
from edgeplast.scoring.moments import from_all, place
from edgeplast.scoring.running import embed, heard_by, run_block


def bound(job: Job) -> dict[str, Estimate]:
    """The paper's upper bounds, at the tokens of the same pairs that ``plasticity`` uses.

    * norms: max|γ| / smallest token deviation seen (for RMS norms, smallest root mean square);
    * fc1, fc2: the spectral norm of the weights (layer scale included, a norm inside the MLP multiplied on);
    * attn: :func:`attention_bound` in the ball of the largest token norm seen.

    A bound has no sampling error: more pictures can only make it larger.

    Cost: two forward passes a pair, and one eigenvalue decomposition a weight.

    Raises:
        InputError: a component for which no bound is known; the message names it.
    """
    if job.granularity != "component":
        raise UsageError(f"Method 'bound' knows granularity component, not {job.granularity!r}.")
    blocks = dissect(job.model)
    for block in blocks:
        _check(block)
    pairs = draw_pairs(job.images, job.reference, job.pairs, job.seed)
    seen = _extremes(job, blocks, [picture for pair in pairs for picture in pair])
    scores: dict[str, Estimate] = {}
    for block, (least1, least2, largest, between, tokens) in zip(blocks, seen, strict=True):
        where, module = f"blocks.{block.index}", _any(block.module)
        values = {
            "norm1": norm_bound(module.norm1, least1),
            "attn": attention_bound(module.attn, largest, int(tokens), _scale(module, "ls1")),
            "norm2": norm_bound(module.norm2, least2),
            "fc1": _linear(*_first(module.mlp)),
            "fc2": _spectral(_scaled(module.mlp.fc2.weight, _scale(module, "ls2")))
            * (norm_bound(module.mlp.norm, between) if math.isfinite(between) else 1.0),
        }
        scores |= {f"{where}.{kind}": Estimate(v, 0.0, 2 * job.pairs) for kind, v in values.items()}
    return scores


def norm_bound(norm: Any, least: float) -> float:
    """max|γ| / least, a Lipschitz constant of a normalisation on tokens no flatter than ``least``.

    The norm maps a centred token c (D,) to γ·c/s(c) with s = √(mean c² + ε). The part c/s(c) is radial, grows
    with |c|, and s is smallest for the flattest token, so it stretches distances by at most 1/min s.

    Args:
        norm: LayerNorm, or an RMS norm (then c is the token itself).
        least: the smallest s seen.
    """
    weight = getattr(norm, "weight", None)
    return (1.0 if weight is None else float(weight.detach().abs().max())) / least


def attention_bound(attention: Any, radius: float, tokens: int, scale: torch.Tensor | None = None) -> float:
    """A Lipschitz constant of multi-head attention on sequences of N tokens of norm at most R.

        ‖O‖₂ · √( Σ_h [ ‖V_h‖₂ (√N + R²‖A_h‖₂ + √N·R·(R‖A_h‖₂ + ‖b_h‖)) ]² )
        A_h = Q_hᵀK_h / √d_h,  b_h = K_hᵀb_q / √d_h

    Differentiate P X V, P = softmax(S) row by row. Moving the values gives at most ‖P‖₂‖V‖ ≤ √N‖V‖, as P's
    rows sum to 1. Moving the scores gives for token i the covariance of the tokens under p_i times dS_i: the
    query's part is at most R²‖A‖‖dx_i‖; the key's part at most R·(R‖A‖ + ‖b‖)·√(Σ_j p_ij‖dx_j‖²), which over
    all i is at most √N times that. The key's bias cancels in the softmax. The ball is convex, so a bound on
    the derivative bounds every secant. Same growth in N and R as Castin, Ablin and Peyré, "How Smooth Is
    Attention?", arXiv 2312.14820. Loose by orders of magnitude: it knows nothing of where attention looks.

    Args:
        attention: timm's Attention, without q/k norms.
        radius: R, the largest token norm.
        tokens: N.
        scale: layer scale γ (D,) applied to the output, or None.
    """
    slices = head_slices("blocks", attention)
    weight, bias = attention.qkv.weight.detach().float(), attention.qkv.bias
    query, key, value = weight.chunk(3)
    offset = torch.zeros(len(query)).to(query) if bias is None else bias.detach().float().chunk(3)[0]
    total, root = 0.0, math.sqrt(tokens)
    for part in slices:
        size = math.sqrt(part.stop - part.start)
        # ‖QᵀK‖ of the (D, D) product from its two triangular factors, (d_h, d_h).
        a = _spectral(torch.linalg.qr(query[part].T).R @ torch.linalg.qr(key[part].T).R.T / size)
        b = float(torch.linalg.vector_norm(key[part].T @ offset[part] / size))
        total += (_spectral(value[part]) * (root + radius**2 * a + root * radius * (radius * a + b))) ** 2
    return _spectral(_scaled(attention.proj.weight, scale)) * math.sqrt(total)


def _extremes(job: Job, blocks: list[Anatomy], pictures: list[Picture]) -> np.ndarray:
    """For each block: least spread before norm1, norm2, largest norm before attn, least in the MLP, N."""
    signs = np.array([1, 1, -1, 1, -1])  # minima as they are, maxima negated, so that one minimum merges all
    worst = np.full((len(blocks), 5), np.inf)
    rank, world = place()
    chunks = in_chunks(pictures, 2 * job.chunk)
    for number, chunk in enumerate(chunks):
        if number % world == rank:
            worst = np.minimum(worst, _extremes_of(job, blocks, chunk) * signs)
        job.progress("bound", number + 1, len(chunks))
    return np.min(from_all(worst), axis=0) * signs


@torch.inference_mode()
def _extremes_of(job: Job, blocks: list[Anatomy], pictures: list[Picture]) -> np.ndarray:
    tokens = embed(job.model, job.batch(pictures))
    rows = []
    for block in blocks:
        kinds = ("norm1", "norm2", "attn", "fc2")
        taps = [block.inputs[kind] for kind in kinds]
        tokens, heard = run_block(block, tokens, taps, _spread)
        units = {unit.kind: unit for unit in block.units}
        values = [heard_by(units[kind], [block.inputs[kind]], heard)[0] for kind in kinds]
        rows.append([*values, tokens.shape[1]])
    return np.array(rows, dtype=np.float64)


def _spread(tap: Tap, tokens: torch.Tensor) -> float:
    """Smallest √(variance + ε) of a token before a norm; the largest token norm elsewhere."""
    module, tokens = tap.module, tokens.float()
    if isinstance(module, nn.LayerNorm):
        return float((tokens.var(dim=-1, correction=0) + module.eps).sqrt().min())
    if "rms" in type(module).__name__.lower():
        return float((tokens.square().mean(dim=-1) + (_any(module).eps or 0)).sqrt().min())
    if isinstance(module, nn.Linear):
        return math.inf
    return float(torch.linalg.vector_norm(tokens, dim=-1).max())


def _check(block: Anatomy) -> None:
    module, where = _any(block.module), f"blocks.{block.index}"
    norms = {"norm1": module.norm1, "norm2": module.norm2, "mlp.norm": getattr(module.mlp, "norm", None)}
    for name, norm in norms.items():
        known = norm is None or isinstance(norm, (nn.LayerNorm, nn.Identity))
        if not known and "rms" not in type(norm).__name__.lower():
            raise InputError(f"{where}.{name} is a {type(norm).__name__}: no bound is known for it. {_ELSE}")
    for name in ("q_norm", "k_norm", "norm", "gate"):
        inner = getattr(module.attn, name, None)
        if inner is not None and not isinstance(inner, nn.Identity):
            raise InputError(f"{where}.attn.{name}: no bound is known for attention with it. {_ELSE}")
    head_slices(where, module.attn)


_ELSE = "Use another method, e.g. plasticity or jacobian, which measure instead."


def _first(mlp: Any) -> list[torch.Tensor]:
    return [layer.weight for layer in (getattr(mlp, n, None) for n in ("fc1", "fc1_g", "fc1_x")) if layer is not None]


def _linear(*weights: torch.Tensor) -> float:
    return _spectral(torch.cat([w.detach() for w in weights]))


def _spectral(weight: torch.Tensor) -> float:
    """Largest singular value, from the smaller Gram matrix in float64: many times faster than an SVD."""
    weight = weight.detach().double()
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))


def _scaled(weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return weight.detach() if scale is None else scale.detach()[:, None] * weight.detach()


def _scale(block: Any, name: str) -> torch.Tensor | None:
    return getattr(getattr(block, name, None), "gamma", None)


def _any(module: nn.Module) -> Any:
    return module
