"""The three secant scores: how far a component's output moves when its input moves from one picture to another.

    P(f) = E over pairs (x, y) of ‖f(x) - f(y)‖_F / ‖x - y‖_F

with x and y whole token sequences (N, D), class token included, or whole feature maps; forward passes only. Source:
Odonnat, Chapel, Tavenard and Redko, "Vision Transformer Finetuning Benefits from Non-Smooth Components",
arXiv 2602.06883.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeplast.errors import InputError
from edgeplast.scoring.anatomy import Anatomy, Tap, Unit, dissect
from edgeplast.scoring.bodies import Body
from edgeplast.scoring.examples import Picture, draw_pairs
from edgeplast.scoring.job import Estimate, Job, in_chunks
from edgeplast.scoring.moments import accumulate
from edgeplast.scoring.running import embed, heard_by, listening, naming, not_finite, taps_of
from edgeplast.secants import ROUNDING, ratios

Pair = tuple[Picture, Picture]


def plasticity(job: Job) -> dict[str, Estimate]:
    """Each component's true input and output in the network, its own denominator.

    Cost: two forward passes a pair (one for each picture), heads a few per cent more. Memory: what inference of one
    chunk of pairs needs.

    Raises:
        InputError: a picture of the wrong size, a component that never ran or whose values are not finite.
    """
    return _true_inputs(job, "plasticity", job.body())


def plasticity_branch(job: Job) -> dict[str, Estimate]:
    """True inputs, with each norm folded into what follows it: attn∘norm1, fc1∘norm2, fc2∘activation.

    Multiplying a norm's γ and β by c and dividing the weights that follow by c leaves the network as it is but
    multiplies the norm's ``plasticity`` by c; these units do not change. Norms have no score of their own.
    With granularity ``branch``: attn∘norm1 and mlp∘norm2 against the residual stream. Cost as ``plasticity``.

    In models that are no plain vision transformers a norm with fixed statistics right behind a component (BatchNorm
    after a convolution) is the end of that component, as is a norm whose output goes into a sum.

    Raises:
        InputError: see :func:`plasticity`.
    """
    return _true_inputs(job, "plasticity-branch", job.body(branch=True))


def plasticity_embedding(job: Job) -> dict[str, Estimate]:
    """The paper's: every component of every block is fed the raw embedding output.

    ``fc2`` gets it padded with zeros from D to its input width. One denominator for all: the distance of the
    two embeddings. As in the authors' code, where image i of the source set is paired with image i of the
    downstream set; without a reference set, pairs are drawn within the data.

    Cost: less than two forward passes a pair. Memory: one embedding and one component's activations.

    Raises:
        InputError: see :func:`plasticity`.
    """
    blocks = dissect(job.model, job.granularity)
    names = [unit.name for block in blocks for unit in block.units]

    @torch.inference_mode()
    def measure(pairs: list[Pair]) -> np.ndarray:
        tokens = embed(job.model, job.batch(_both(pairs)))
        distance = _distances(Tap(job.model, "output"), tokens).sqrt().cpu().numpy()
        rows = []
        for block in blocks:
            for kind, stage in block.stages.items():
                units = [unit for unit in block.units if unit.kind == kind]
                fed = _padded(tokens, block, kind)
                with listening(taps_of(units), _distances) as heard, naming(f"blocks.{block.index}.{kind}"):
                    stage(fed)
                rows += [(unit.name, _root(heard_by(unit, unit.sink, heard), unit)) for unit in units]
        moved = dict(rows)
        return ratios(np.stack([moved[name] for name in names], axis=1), distance[:, None])

    chunks = in_chunks(draw_pairs(job.images, job.reference, job.pairs, job.seed), job.chunk)
    moments = accumulate(chunks, measure, len(names), "plasticity-embedding", job.progress)
    return job.estimates("plasticity-embedding", names, moments, f"{job.pairs} pairs")


def _true_inputs(job: Job, method: str, body: Body) -> dict[str, Estimate]:
    names = [unit.name for unit in body.units]

    @torch.inference_mode()
    def measure(pairs: list[Pair]) -> np.ndarray:
        heard = body.listen(job.model, job.batch(_both(pairs)), _distances)
        columns = []
        for unit in body.units:
            before = _root(heard_by(unit, unit.source, heard), unit, at="input")
            columns.append(ratios(_root(heard_by(unit, unit.sink, heard), unit), before))
        return np.stack(columns, axis=1)

    chunks = in_chunks(draw_pairs(job.images, job.reference, job.pairs, job.seed), job.chunk)
    moments = accumulate(chunks, measure, len(names), method, job.progress)
    return job.estimates(method, names, moments, f"{job.pairs} pairs")


def _both(pairs: list[Pair]) -> list[Picture]:
    """All first pictures, then all second ones: a batch of 2b for b pairs."""
    return [first for first, _ in pairs] + [second for _, second in pairs]


def _distances(tap: Tap, tokens: torch.Tensor) -> torch.Tensor:
    """Squared Frobenius distance of each pair: tokens (2b, …) to float64 (b,).

    What may be rounding is no distance; see :data:`edgeplast.secants.ROUNDING`.
    """
    half = len(tokens) // 2
    first, second = tokens[:half], tokens[half:]
    squares = tap.squared_norm(first - second)
    # Written so that what is not finite stays so, and is found.
    return torch.where(squares < ROUNDING**2 * tap.squared_norm(first), torch.zeros_like(squares), squares)


def _root(squares: list[torch.Tensor], unit: Unit, *, at: str = "output") -> np.ndarray:
    """Distance over all parts of an input or output, float64 (b,)."""
    distance = torch.stack(squares).sum(dim=0).sqrt().cpu().numpy()
    if not np.isfinite(distance).all():
        raise not_finite(unit, at=at)
    return distance


def _padded(tokens: torch.Tensor, block: Anatomy, kind: str) -> torch.Tensor:
    """Pad fc2's input with zeros up to the width that it takes; other components take the tokens as they are."""
    if kind != "fc2":
        return tokens
    module: nn.Module | int = block.inputs["fc2"].module
    mlp = getattr(block.module, "mlp")  # noqa: B009
    width = int(mlp.fc2.in_features)
    if width < tokens.shape[-1]:
        raise InputError(
            f"blocks.{block.index}.fc2 takes {width} channels, fewer than the {tokens.shape[-1]} of the embedding, "
            f"so plasticity-embedding cannot feed it ({type(module).__name__}). Use method plasticity."
        )
    return nn.functional.pad(tokens, (0, width - tokens.shape[-1]))
