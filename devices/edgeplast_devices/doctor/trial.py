"""What the doctor tries in a process of its own: load the runtime and train, as ``adapt`` would.

In its own process because that is how runtimes fail in this field: a wheel for another processor dies with an
illegal instruction, a clash of two builds with a segmentation fault, too large a step by the kernel's hand. And a
fresh process shows its peak of memory as it is. Run as ``python -m edgeplast_devices.doctor.trial REQUEST``.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edgeplast.bundle import EVALUATION_GRAPH, MANIFEST, Bundle, Manifest
from edgeplast.errors import BudgetError, EdgeplastError, FallbackWarning, InputError
from edgeplast.placement import ON_CPU, Placement
from edgeplast_devices.doctor.ways import Way, Ways
from edgeplast_devices.images import preload
from edgeplast_devices.memory import give_back_code, peak_bytes, resident_bytes
from edgeplast_devices.optimizers import gradient_norm, make_optimizer
from edgeplast_devices.placing import place
from edgeplast_devices.providers import CPU
from edgeplast_devices.rungs import Rung, choose, ladder, predicted_peak, region_bytes
from edgeplast_devices.runtime import (
    PRACTICE_GRAPH,
    EvaluationSession,
    TrainingSession,
    import_onnxruntime,
    read_in,
    reserve_arena,
    runtime_name,
)
from edgeplast_devices.sessions import Trains, trains_on_pictures
from edgeplast_devices.weights import read_trainable

PRACTICE_SHAPES = {"norm.weight": (8,), "norm.bias": (8,), "fc.weight": (16, 8), "fc.bias": (16,),
                   "head.weight": (4, 16), "head.bias": (4,)}  # fmt: skip
"""Parameters of the practice graph; it takes images (b, 8) and targets (b, 4)."""

ADAPTING = "edgeplast_devices.adapting"
"""What is resident of the device room when it adapts."""

_PRACTICE_STEPS, _PRACTICE_ROWS = 30, 32
_TIMED_STEPS, _TIMED_SECONDS = 3, 4.0
"""Micro-batches that are timed after the first, which warms up, and how long they may take together."""

Stage = Literal["import", "train", "fit", "step", "done"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to try.

    Attributes:
        bundle: folder of a checked bundle; None tries the practice graph.
        memory_bytes: the budget.
        available_bytes: what is free; a step that is predicted to need more is not tried.
        threads: of the runtime.
        provider: the execution provider to try; where it does not work the CPU is tried, as ``adapt`` would.
        times_ways: whether all ways to take a step that fit are timed, and kept for the next run.
        load: modules that will be resident beside the device room when it is done in earnest, e.g. the command
            line's; they are imported before anything is measured.
    """

    bundle: str | None = None
    memory_bytes: int | None = None
    available_bytes: int | None = None
    threads: int = 1
    provider: str = CPU
    times_ways: bool = False
    load: tuple[str, ...] = (ADAPTING,)


class Outcome(msgspec.Struct, kw_only=True):
    """What came of it.

    Attributes:
        stage: how far it came: importing the runtime, training at all, fitting the budget, one step of the chosen
            rung, or through.
        error: why it came no further.
        exit_code: that goes with the error.
        runtime: which build, and its version.
        providers: that the runtime was built with.
        placement: the provider that was asked for, and the one that was tried.
        resident_bytes: of the process with the runtime loaded.
        first_loss: of the first step.
        last_loss: of the last.
        rung: the chosen one, in words.
        batch: images per optimizer step.
        predicted_bytes: peak of the chosen rung.
        peak_bytes: of this process.
        image_seconds: forward and backward, per image.
        update_seconds: of the optimizer, per step.
        ways: to take a step that fit, the chosen one first.
    """

    stage: Stage = "import"
    error: str = ""
    exit_code: int = 0
    runtime: str = ""
    providers: tuple[str, ...] = ()
    placement: Placement = ON_CPU
    resident_bytes: int = 0
    first_loss: float = 0.0
    last_loss: float = 0.0
    rung: str = ""
    batch: int = 0
    predicted_bytes: int = 0
    peak_bytes: int = 0
    image_seconds: float = 0.0
    update_seconds: float = 0.0
    ways: tuple[Way, ...] = ()


def run(request: Request) -> Outcome:
    """Try it; what goes wrong is part of the outcome."""
    outcome = Outcome()
    try:
        for name in request.load:
            import_module(name)
        outcome.runtime = runtime_name()
        outcome.providers = tuple(import_onnxruntime().get_available_providers())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)  # it is a finding
            outcome.placement = place("auto", request.provider, request.memory_bytes)
        if request.memory_bytes is not None:
            give_back_code()  # as adapt does in a budget
        read_in(request.threads)
        preload(())  # adapt has decoded pictures by then
        np.random.default_rng()
        outcome.resident_bytes = resident_bytes()
        outcome.stage = "train"
        if request.bundle is None:
            _practise(outcome, request.threads)
        else:
            folder = Path(request.bundle)  # its hashes were verified before this process was started
            _try_bundle(Bundle(folder, Manifest.read(folder / MANIFEST)), request, outcome)
        outcome.peak_bytes = outcome.peak_bytes or peak_bytes()
    except Exception as error:  # whatever a broken runtime raises is the finding
        outcome.exit_code = error.exit_code if isinstance(error, EdgeplastError) else 3
        kind = "" if isinstance(error, EdgeplastError) else f"{type(error).__name__}: "
        outcome.error = kind + (str(error).strip().splitlines() or ["no reason given"])[0]
    return outcome


def _practise(outcome: Outcome, threads: int) -> None:
    """Learn which of four inputs is largest; two layers can, if gradients are right."""
    rng = np.random.default_rng(0)
    parameters = {
        name: (np.ones(shape) if name == "norm.weight" else rng.normal(size=shape) * 0.3 * (len(shape) > 1)).astype(
            np.float32
        )
        for name, shape in PRACTICE_SHAPES.items()
    }
    rows = rng.normal(size=(_PRACTICE_ROWS, 8)).astype(np.float32)
    targets = (np.eye(4)[rows[:, :4].argmax(1)] / _PRACTICE_ROWS).astype(np.float32)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    session = TrainingSession(PRACTICE_GRAPH, parameters, gradients, threads, outcome.placement)
    optimizer = make_optimizer("adamw", parameters)
    losses = []
    for _ in range(_PRACTICE_STEPS):
        losses.append(_step(session, rows, targets, gradients))
        optimizer.update(gradients, 0.03)
    outcome.first_loss, outcome.last_loss = losses[0], losses[-1]
    if not losses[-1] < 0.5 * losses[0]:
        raise InputError(f"the loss of a practice model went from {losses[0]:.3f} to {losses[-1]:.3f} instead of down")
    outcome.stage = "done"


def _try_bundle(bundle: Bundle, request: Request, outcome: Outcome) -> None:
    """Train the head one image at a time, then run the rung that ``adapt`` would choose."""
    manifest, plan = bundle.manifest, bundle.manifest.plan
    outcome.batch, optimizer = plan.batch_size, plan.optimizer
    rungs = ladder(manifest, plan.batch_size)
    chosen: Rung | None = None
    refused = ""
    try:
        first = choose(manifest, rungs, optimizer, outcome.resident_bytes, request.memory_bytes)
        ways = Ways(
            manifest, rungs[rungs.index(first) :], outcome.resident_bytes, request.memory_bytes,
            outcome.runtime, outcome.placement.used, request.threads,
        )  # fmt: skip
        chosen = ways.taken
        outcome.predicted_bytes, outcome.rung, outcome.ways = ways.peak(chosen), str(chosen), tuple(ways.table())
        tried = [chosen, *(ways.candidates if request.times_ways else [])]
        reserve_arena(max(region_bytes(manifest, rung) for rung in tried))
    except BudgetError as error:
        refused = str(error)
    head = min((r for r in rungs if r.micro_batch == 1), key=lambda r: predicted_peak(manifest, r, optimizer, 0))
    parameters = read_trainable(bundle)
    _time_rung(bundle, head, parameters, request.threads, outcome.placement, 1)
    outcome.stage = "fit"
    if refused or chosen is None:
        raise BudgetError(refused)
    outcome.stage = "step"
    if request.available_bytes is not None and outcome.predicted_bytes > request.available_bytes:
        return
    graph, held = bundle.path / EVALUATION_GRAPH, None
    if not ways.manner.in_turns:
        held = EvaluationSession(graph, parameters, request.threads, outcome.placement)  # as in adapt
    seconds, update, loss = _time_rung(bundle, chosen, parameters, request.threads, outcome.placement, _TIMED_STEPS)
    del held
    outcome.image_seconds, outcome.update_seconds = seconds / chosen.micro_batch, update
    outcome.first_loss = outcome.last_loss = loss
    outcome.peak_bytes = peak_bytes()
    if request.times_ways:
        ways.time(_Passes(bundle, parameters, outcome.placement).once)
        outcome.ways = tuple(ways.table())
    outcome.stage = "done"


class _Passes:
    """Micro-batches of noise, one at a time, through whatever rung with however many threads."""

    def __init__(self, bundle: Bundle, parameters: dict[str, np.ndarray], placement: Placement) -> None:
        self._bundle, self._parameters, self._placement = bundle, parameters, placement
        self._of: tuple[str, int] | None = None
        self._session: Trains | None = None

    def once(self, rung: Rung, threads: int) -> None:
        """Run forward and backward."""
        if self._of != (rung.graph.file, threads):
            self._session, self._of = None, (rung.graph.file, threads)
            gradients = _gradients(self._bundle, rung, self._parameters)
            graph = self._bundle.path / rung.graph.file
            self._session = TrainingSession(graph, self._parameters, gradients, threads, self._placement)
        prefix = self._bundle.manifest.prefix  # which no way to take a step changes
        assert self._session is not None
        self._session.accumulate(*_noise(self._bundle, rung.micro_batch, prefix.shape if prefix else None))


def _gradients(bundle: Bundle, rung: Rung, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    owner = bundle.manifest.parameters
    names = [name for name in parameters if owner[name].component in rung.tier.components]
    return {name: np.zeros_like(parameters[name]) for name in names}


def _noise(bundle: Bundle, count: int, shape: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures, or latents of another shape, and targets of random classes."""
    how, classes = bundle.manifest.preprocessing, len(bundle.manifest.classes)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, *(shape or (how.channels, *how.image_size))), np.float32)
    return images, np.eye(classes, dtype=np.float32)[rng.integers(0, classes, count)] / count


def _time_rung(
    bundle: Bundle,
    rung: Rung,
    parameters: dict[str, np.ndarray],
    threads: int,
    placement: Placement,
    times: int,
) -> tuple[float, float, float]:
    """Train on noise; return seconds per micro-batch, seconds per update, and the loss. Parameters change."""
    gradients = _gradients(bundle, rung, parameters)
    optimizer = make_optimizer(bundle.manifest.plan.optimizer, {name: parameters[name] for name in gradients})
    session = trains_on_pictures(bundle, rung.graph.file, parameters, gradients, threads, placement)
    images, targets = _noise(bundle, rung.micro_batch)
    loss = _step(session, images, targets, gradients)
    took: list[float] = []
    while len(took) < times and sum(took) < _TIMED_SECONDS:
        begin = time.perf_counter()
        _step(session, images, targets, gradients)
        took.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    optimizer.update(gradients, 1e-6)
    return statistics.median(took), time.perf_counter() - begin, loss


def _step(session: Trains, images: np.ndarray, targets: np.ndarray, gradients: dict[str, np.ndarray]) -> float:
    """Run forward and backward once, and check what comes back.

    Raises:
        InputError: the loss or a gradient is no finite number, or all gradients are zero.
    """
    for gradient in gradients.values():
        gradient.fill(0)
    loss, _ = session.accumulate(images, targets)
    norm = gradient_norm(gradients)
    if not (np.isfinite(loss) and np.isfinite(norm) and norm > 0):
        raise InputError(f"a training step gave the loss {loss:g} and a gradient norm of {norm:g}")
    return loss


def main() -> None:
    """Read the request from the command line and write the outcome as the last line of standard output."""
    request = msgspec.json.decode(sys.argv[1], type=Request)
    sys.stdout.write("\n" + msgspec.json.encode(run(request)).decode() + "\n")


if __name__ == "__main__":
    main()
