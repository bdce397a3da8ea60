"""Bits of each frozen component for a size or an accuracy: plastic parts stay precise, smooth parts forgive.

    what a choice costs = Σ over components: plasticity · measured output error at the chosen bits

Plasticity is the plan's score over the median of its kind (attention, fc1, fc2), so that one of median plasticity
counts with just what was measured; the error is that of ``rounding_errors.py``; the choice is that of ``bit_steps.py``.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch

from edgeplast.bundle import BLOCK_OF_4_BITS, Manifest
from edgeplast.errors import BudgetError, UsageError
from edgeplast.medians import over_medians
from edgeplast.plans import Plan, PlannedComponent
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent
from edgeplast.units import format_bytes
from edgeplast_exporters.bit_steps import Bits, total, way_down
from edgeplast_exporters.calibration import sample_inputs
from edgeplast_exporters.capture import capture
from edgeplast_exporters.held_out_accuracy import AccuracyTarget, HeldOutAccuracy
from edgeplast_exporters.quantization import quantizable
from edgeplast_exporters.refining import regrouped, with_factors
from edgeplast_exporters.rounding_errors import rounded_matrix, rounding_errors
from edgeplast_exporters.training import promote
from edgeplast_exporters.writer import write_bundle

T = TypeVar("T")

CHOICES = (32, 8, 4)

_LEAST_PLASTICITY = 0.1
"""Of the median: a component without any would forgive every error, and what was measured says otherwise."""

_NOTES_BYTES = 1024
"""Kept free for the notes in the plan that say what was chosen."""


def choose_bits(
    model: torch.nn.Module,
    plan: Plan,
    *,
    images: Sequence[np.ndarray],
    classes: Sequence[str],
    preprocessing: Preprocessing,
    size_bytes: int | None = None,
    accuracy: AccuracyTarget | None = None,
    fits: Callable[[Plan], bool] = lambda _: True,
    progress: Progress = silent,
) -> Plan:
    """Return a plan with other bits of its frozen components.

    Args:
        model: as in :func:`edgeplast_exporters.export`.
        plan: gives what trains and how plastic each component is; its bits are not looked at.
        images: preprocessed pictures, float32 (3, H, W) each, in random order, to measure errors on.
        classes: as in ``export``.
        preprocessing: as in ``export``.
        size_bytes: the largest bundle: all its files (``Bundle.bytes``): frozen and trainable weights, graphs,
            manifest. What it takes besides frozen matrices is counted with graphs that read all of them in 4 bits,
            which are the largest.
        accuracy: how much may be lost. With it the result is the smallest bundle that loses no more (and, with
            ``size_bytes``, is no larger); without, the most exact one of that size.
        fits: says whether what a plan takes while it runs is in its budget. Where it is not, no component has more
            than 8 bits, and where that is still too much, 4.
        progress: told of each stage.

    Raises:
        BudgetError: even the fewest bits are too large, or the most lose too much; the message says what is possible.
        UsageError: no target; nothing is frozen that could have fewer bits.
        InputError: too few images, or what ``export`` raises.
    """
    if size_bytes is None and accuracy is None:
        raise UsageError("Bits can be chosen for a size or for an accuracy. Give at least one of them.")
    shape = (len(preprocessing.mean), *preprocessing.image_size)
    captured = regrouped(capture(model, shape, name=plan.outline.model, taps=True), plan.outline)
    whole = with_factors(captured)
    forward, parameters, owner = whole.graph, whole.weights, whole.owner
    trainable = [name for name in whole.parameters if plan.components[owner[name]].trainable]
    weights = [name for name in quantizable(promote(forward, trainable)) if name in owner]
    if not weights:
        raise UsageError("Every matrix trains, in float32: there is nothing whose bits could be chosen. Train less.")
    rows = {n: s.rows for n, s in sample_inputs(forward, parameters, images, weights, progress=progress).items()}
    measured = rounding_errors(forward, parameters, images, rows, progress=progress)
    plasticity = relative_plasticity(plan.components)
    errors = {c: {b: plasticity[c] * ({32: 0.0} | found)[b] for b in CHOICES} for c, found in measured.items()}
    sizes = {
        c: {b: sum(_bytes(parameters[n].shape, b) for n in weights if owner[n] == c) for b in CHOICES} for c in measured
    }

    def exported(state: Bits) -> tuple[Manifest, int]:
        with tempfile.TemporaryDirectory() as folder:
            trial = write_bundle(captured, with_bits(plan, state), into=Path(folder) / "b", classes=classes,
                           preprocessing=preprocessing)  # fmt: skip
            return trial.manifest, trial.bytes

    def rounded(state: Bits) -> dict[str, np.ndarray]:
        return {n: rounded_matrix(parameters[n], state[owner[n]], rows[n]) for n in weights}

    most_bytes, others, notes = math.inf, 0, list[str]()
    if size_bytes is not None:
        fewest = dict.fromkeys(measured, min(CHOICES))
        matrices = int(total(fewest, sizes))
        others = exported(fewest)[1] + _NOTES_BYTES - matrices
        most_bytes = size_bytes - others
        if matrices > most_bytes:
            raise _too_small(size_bytes, matrices, others)
    if accuracy is not None:
        measuring = HeldOutAccuracy(forward, parameters, images, accuracy, progress=progress)
    for most_bits in CHOICES:
        way = way_down(_up_to(most_bits, errors), _up_to(most_bits, sizes))
        states = [state for state in way if total(state, sizes) <= most_bytes]
        chosen = states[0]
        if accuracy is not None:
            chosen, note = measuring.furthest(states, rounded)
            notes = [note]
        if fits(with_bits(plan, chosen)):
            break
    manifest, predicted = exported(chosen)

    def noted() -> Plan:
        note = _note(chosen, plan.components, predicted, size_bytes)
        return msgspec.structs.replace(with_bits(plan, chosen), notes=(*plan.notes, note, *notes))

    # The notes are part of the bundle whose size they tell.
    predicted += len(msgspec.structs.replace(manifest, plan=noted()).to_json()) - len(manifest.to_json())
    return noted()


def _up_to(most_bits: int, tables: Mapping[str, Mapping[int, T]]) -> dict[str, dict[int, T]]:
    return {part: {bits: n for bits, n in table.items() if bits <= most_bits} for part, table in tables.items()}


def relative_plasticity(components: Mapping[str, PlannedComponent]) -> dict[str, float]:
    """Return each component's score over the median of its kind, at least a tenth; 1 where there is none."""
    scores = {name: max(c.score, 0.0) for name, c in components.items() if c.score is not None}
    relative = over_medians(scores)
    return {name: max(relative.get(name, 1.0), _LEAST_PLASTICITY) for name in components}


def with_bits(plan: Plan, bits: Mapping[str, int]) -> Plan:
    """Return a plan with other bits of some components."""
    components = {
        name: msgspec.structs.replace(component, weight_bits=bits.get(name, component.weight_bits))
        for name, component in plan.components.items()
    }
    return msgspec.structs.replace(plan, components=components)


def _bytes(shape: Sequence[int], bits: int) -> int:
    """Return the bytes of a matrix (out, in) as stored, scales included."""
    outputs, inputs = shape
    if bits == 32:
        return 4 * outputs * inputs
    scales = outputs if bits == 8 else outputs * -(-inputs // BLOCK_OF_4_BITS)
    return -(-outputs * inputs * bits // 8) + 4 * scales


def _note(chosen: Bits, components: Mapping[str, PlannedComponent], predicted: int, size: int | None) -> str:
    counts = ", ".join(f"{list(chosen.values()).count(b)} in {b}" for b in CHOICES if b in chosen.values())
    scored = any(components[name].score is not None for name in chosen)
    return (
        f"Bits chosen by {'plasticity and ' if scored else ''}measured error: {counts} bits; a bundle of "
        f"{format_bytes(predicted)}{f' ({format_bytes(size)} allowed)' if size is not None else ''}."
    )


def _too_small(size: int, matrices: int, others: int) -> BudgetError:
    least = matrices + others
    return BudgetError(
        f"No bundle of this plan fits into {format_bytes(size)}: the smallest, with every frozen matrix in 4 bits, "
        f"takes {format_bytes(least)} ({least} bytes), of which {format_bytes(others)} are what trains (in float32), "
        "norms, biases and graphs. Allow as much, or train less (--train, --memory)."
    )
