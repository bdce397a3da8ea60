"""Scores again while a run learns: measured on its own pictures before an epoch, and the set that they favour trained.

The graph that trains is closed while the one that scores is open, as in turns with the one that evaluates. Pairs are
the same each time, so that what differs is the weights. What was chosen lies in the run's state.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING

import msgspec

from edgeplast.adaptation import Scored
from edgeplast.bundle import FROZEN, Bundle
from edgeplast.errors import FallbackWarning, UsageError
from edgeplast.outline import Outline
from edgeplast.score_taps import SCORE_GRAPH
from edgeplast.units import counted
from edgeplast_devices.curves import thin
from edgeplast_devices.options import WITHOUT_LABELS, TrainingOptions, default_learning_rate
from edgeplast_devices.rungs import Rung, predicted_peak
from edgeplast_devices.runtime import OutOfMemoryError, release_arena

if TYPE_CHECKING:  # where nobody asks for scores, what measures them is not loaded
    from edgeplast.scores import ComponentScore
    from edgeplast_devices.running import Run
    from edgeplast_devices.telemetry import TelemetryWriter

LEAST_PAIRS, MOST_PAIRS = 8, 32
_SHARE = 0.02
"""Of an epoch's work: a step is three forward passes a picture, a pair of pictures two."""

_LEAST_PICTURES = 4


def check_can_rescore(bundle: Bundle, options: TrainingOptions) -> None:
    """Raise unless there is something to choose from, where scores are asked for.

    Raises:
        UsageError: the bundle has no alternatives.
    """
    if options.rescore != "none" and not bundle.manifest.alternatives:
        raise UsageError(
            f"--rescore {options.rescore} chooses among sets of components, and {bundle.path} has graphs of its plan's "
            "alone. Export it again with --alternatives, or leave out --rescore."
        )


def read_in() -> None:
    """Load what measures scores and chooses by them, so that it is counted as resident before memory is shared out."""
    import edgeplast.alternatives  # noqa: F401
    import edgeplast_devices.sets  # noqa: F401  # and with it what measures


def pairs_of(pictures: int) -> int:
    """Return how many pairs are measured where so many pictures are learned from in an epoch."""
    return min(max(round(_SHARE * 3 * pictures / 2), LEAST_PAIRS), MOST_PAIRS)


def begin_sets(run: Run, options: TrainingOptions) -> None:
    """Bring into a run's state which sets it may train.

    Args:
        run: that begins, or goes on.
        options: as they were given, so that it can be told whether the learning rate was.
    """
    sets, state = run.standing.sets, run.state
    if sets is None:
        return
    if not sets.again:
        state.sets = {name: rung.key for name, rung in sets.rungs.items()}
    if run.checkpoint is None and options.learning_rate is None:
        state.body_rate = 1.0


def rescore(run: Run, telemetry: TelemetryWriter) -> None:
    """Before the first step of an epoch, measure scores and go on with the set that they favour.

    Args:
        run: opened.
        telemetry: told of scores, and of a change.
    """
    state, sets = run.state, run.standing.sets
    is_over = state.epoch >= run.options.epochs or state.stopped_because != "finished"
    is_asked = sets is not None and (state.epoch == 0 or run.options.rescore == "every-epoch")
    if not is_asked or is_over or state.position or (state.scored and state.scored[-1].epoch == state.epoch + 1):
        return
    from edgeplast.alternatives import errors_of_kinds, kinds_by_plasticity

    begin = time.perf_counter()
    scores, why_none = _scores(run)
    outline = run.bundle.manifest.plan.outline
    before = run.trainer.rung.tier.name
    if scores:
        _choose(run, outline, scores)
    found = {name: entry.score for name, entry in scores.items()}
    scored = Scored(
        epoch=state.epoch + 1,
        step=state.steps,
        tier=run.trainer.rung.tier.name,
        kinds={kind: _short(score) for kind, score in kinds_by_plasticity(outline, found).items()},
        errors={kind: _short(error) for kind, error in errors_of_kinds(outline, scores).items()},
        pairs=max((entry.samples for entry in scores.values()), default=0),
        seconds=round(time.perf_counter() - begin, 3),
        why_none=why_none,
    )
    state.scored.append(scored)
    thin(state.scored)
    telemetry.scores(step=state.steps, **{k: v for k, v in msgspec.structs.asdict(scored).items() if k != "step"})
    if scored.tier != before:
        telemetry.rung(**msgspec.structs.asdict(state.rung_changes[-1]))
        run.tell(f"Scores favour {scored.tier} over {before}: {in_words(scored)}.")
    elif why_none and len(state.scored) == 1:
        run.tell(f"No scores were measured ({why_none}); {before} trains.")


def in_words(scored: Scored) -> str:
    """Return what was measured of each kind, the most plastic first."""
    return ", ".join(f"{kind} {score:.3g}" for kind, score in scored.kinds.items())


def _scores(run: Run) -> tuple[dict[str, ComponentScore], str]:
    """Measure with the weights in force; return scores by component, or none and why."""
    from edgeplast_devices.scoring import NotFiniteError

    sets, train = run.standing.sets, run.splits["train"]
    assert sets is not None
    if not sets.pairs:
        return {}, "they do not fit the budget"
    if len(train) < _LEAST_PICTURES:
        return {}, f"{counted(len(train), 'picture')}, and pairs need {_LEAST_PICTURES}"
    run.trainer.rest()
    run.predicted = max(run.predicted, sets.scoring_bytes)
    try:
        return _measured(run, sets.pairs), ""
    except NotFiniteError:
        return {}, "the model's values are not finite"
    except (OutOfMemoryError, MemoryError):
        pass
    finally:
        release_arena()
        run.guard.settle()
    return {}, "memory ran out"


def _measured(run: Run, at_once: int) -> dict[str, ComponentScore]:
    from edgeplast.prepared_images import PreparedImages
    from edgeplast.scores import DEFAULT_METHOD
    from edgeplast_devices.scoring import ScoringSession, measured, scores_of

    bundle, guard, train = run.bundle, run.guard, run.splits["train"]
    footprint = bundle.manifest.scoring
    assert footprint is not None and run.options.threads is not None
    run.standing.make_room()
    bundle.check_unchanged(SCORE_GRAPH, FROZEN)
    release_arena()
    with guard.opening(footprint.frozen_bytes, run.options.threads):
        session = ScoringSession(bundle, run.parameters, run.options.threads, run.placement)
    bundle.check_unchanged(SCORE_GRAPH, FROZEN)
    taps = session.taps
    method = DEFAULT_METHOD if DEFAULT_METHOD in taps.methods else next(iter(taps.methods))
    wanted = {method: taps.methods[method]}
    pictures = PreparedImages(train, bundle.manifest.preprocessing, decode_limit_bytes=train.decode_limit_bytes)

    def progress(activity: str, done: int, total: int) -> None:
        run.between()
        run.progress(activity, done, total)

    with warnings.catch_warnings():  # the run itself says which pictures cannot be read, once, or not at all
        warnings.simplefilter("ignore", FallbackWarning)
        pairs = pairs_of(len(train))
        found = measured(session, pictures, wanted, pairs, run.options.seed, at_once, guard, progress)
    return scores_of(found[method], wanted[method], taps.outline)


def _choose(run: Run, outline: Outline, scores: dict[str, ComponentScore]) -> None:
    """Go on with the set that scores favour."""
    from edgeplast.alternatives import favoured
    from edgeplast_devices.sets import rungs_of

    trainer, state, manifest = run.trainer, run.state, run.bundle.manifest
    now = trainer.rung
    limits = manifest, run.batch, run.options.micro_batch
    ways = {name: rungs for name, key in state.sets.items() if (rungs := rungs_of(*limits, name, key))}
    if (most := trainer.most_bytes) is not None:  # there is no more memory than this
        ways = {n: rungs for n, rungs in ways.items() if predicted_peak(manifest, rungs[0], run.optimizer, 0) <= most}
    ways[now.tier.name] = trainer.rungs
    chosen = favoured(
        outline,
        scores,
        {name: rungs[0].tier.components for name, rungs in ways.items()},
        {name: rungs[0].micro_batch for name, rungs in ways.items()},
        now.tier.name,
    )
    if chosen == now.tier.name:
        return
    if state.body_rate is not None:
        state.body_rate = _body_rate(run, ways[chosen][0])
    run.standing.took([ways[chosen][0]])
    run.predicted = max(run.predicted, run.standing.shares.predicted_bytes)
    trainer.turn_to(ways[chosen], "scores favour it")


def _body_rate(run: Run, rung: Rung) -> float:
    """Return what the learning rate is multiplied with of all but the head: that of what trains over the run's."""
    outline, options, trained = run.bundle.manifest.plan.outline, run.options, {*rung.tier.components}
    rate = default_learning_rate((c for c in outline.components if c.name in trained), run.optimizer)
    rate *= WITHOUT_LABELS if options.labels == "none" else 1.0
    return rate / options.learning_rate if options.learning_rate else 1.0


def _short(value: float) -> float:
    return float(f"{value:.4g}")
