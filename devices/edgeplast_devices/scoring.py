"""The verb ``score`` on a device: a Bundle and pictures in, a ScoreTable out, without torch and inside a budget.

The bundle's score graph takes pictures in pairs and hands back how far each value between components moves from one to
the other; the rest is division and means. Pairs, what counts as no distance and when the ranking has settled are the
workstation's own (``edgeplast.secants``, ``edgeplast.moments``), so both measure the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from edgeplast.adaptation import MemoryReport
from edgeplast.budget import Budget
from edgeplast.bundle import FROZEN, Bundle, Manifest
from edgeplast.contract import DISTANCES, PAIRS, TAPS
from edgeplast.drawing import draw_pairs
from edgeplast.errors import BudgetError, InputError, UsageError, one_of
from edgeplast.footprint import FIRST_REGION_BYTES, PICTURE_BYTES, Footprint, peak_bytes
from edgeplast.moments import Moments, notes_on, settled
from edgeplast.outline import Outline
from edgeplast.placement import Placement
from edgeplast.prepared_images import PreparedImages
from edgeplast.progress import LOADING, Progress, silent, unheard
from edgeplast.score_taps import SCORE_GRAPH, ScoreTaps, UnitTaps
from edgeplast.scores import DEFAULT_METHOD, ComponentScore, ScoreTable
from edgeplast.secants import ROUNDING, ratios
from edgeplast.units import format_bytes
from edgeplast_devices.binding import StandingInputs, bind_input, bind_output
from edgeplast_devices.guard import Guard, guard_for
from edgeplast_devices.images import ImageSet, Unreadable
from edgeplast_devices.memory import peak_bytes as measured_peak_bytes
from edgeplast_devices.memory import usable_threads
from edgeplast_devices.placing import place
from edgeplast_devices.providers import CPU
from edgeplast_devices.rungs import STARTS_DIFFER_BYTES, UNSPENT_BYTES
from edgeplast_devices.runtime import (
    OutOfMemoryError,
    import_onnxruntime,
    open_session,
    release_arena,
    reserve_arena,
    run_bound,
    runtime_name,
)
from edgeplast_devices.starting import held_bytes
from edgeplast_devices.stopping import Stop
from edgeplast_devices.weights import read_trainable


class NotFiniteError(InputError):
    """What a component takes or gives is no finite number."""


CHUNK = 4
"""Pairs after which it is asked whether the ranking has settled, as on the workstation; and the most that are in the
graph at once."""


def score(
    bundle: Bundle,
    images: ImageSet,
    *,
    method: str = DEFAULT_METHOD,
    others: Sequence[str] = (),
    pairs: int = 64,
    seed: int = 0,
    budget: Budget | None = None,
    threads: int | None = None,
    runtime: str = "auto",
    provider: str = CPU,
    progress: Progress = silent,
    notice: Callable[[str], None] | None = None,
    guard: Guard | None = None,
) -> ScoreTable:
    """Score the components of a bundle on pictures, with the weights that it holds.

    Args:
        bundle: fresh or adapted.
        images: the device's own; labels are not looked at.
        method: what the table goes by, of those that the bundle has a graph for.
        others: further ones, measured on the same pairs.
        pairs: the most pairs of pictures; fewer once the ranking has settled.
        seed: of the pairs.
        budget: what the process may use; by default what the bundle was exported for, and ``Budget()`` for no limit.
        threads: of the runtime; by default all cores this process may use.
        runtime: the build of onnxruntime; see ``placing.place``.
        provider: the execution provider.
        progress: told of each chunk of pairs.
        notice: told of a budget that nobody gave; None for nobody.
        guard: of the budget, where it stands already.

    Raises:
        UsageError: the bundle has no such score, or fewer than two pairs are asked for.
        InputError: too few pictures, none readable, or values that are not finite.
        BudgetError: memory does not suffice; the message names what would.
        DamagedError: files of the bundle changed since they were verified.
    """
    manifest = bundle.manifest
    footprint = manifest.scoring
    if footprint is None:
        raise UsageError(no_score_graph(bundle))
    if pairs < 2:
        raise UsageError(f"--pairs {pairs}: a standard error needs at least 2 pairs; 64 is the default.")
    guard = guard or guard_for(bundle, budget, notice or unheard)
    with guard.standing():
        progress(LOADING, 0, 2)
        placement = place(runtime, provider, guard.allowed_bytes)
        threads = threads or usable_threads()
        unreadable = {"scored": Unreadable()}
        held = held_bytes({"scored": images}, unreadable, manifest.preprocessing, guard, threads)
        at_once, predicted = _fitting(manifest, min(CHUNK, pairs), held, guard.allowed_bytes)
        guard.commit()
        region = footprint.transient_bytes(at_once)
        reserve_arena(region, None if guard.allowed_bytes is None else region + FIRST_REGION_BYTES)
        parameters = read_trainable(bundle)
        bundle.check_unchanged(SCORE_GRAPH, FROZEN)
        release_arena()
        progress(LOADING, 1, 2)
        with guard.opening(footprint.frozen_bytes, threads):
            session = ScoringSession(bundle, parameters, threads, placement)
        bundle.check_unchanged(SCORE_GRAPH, FROZEN)
        taps = session.taps
        wanted = {name: taps.methods[name] for name in _methods((method, *others), taps)}
        left = None if guard.allowed_bytes is None else max(guard.allowed_bytes - predicted - UNSPENT_BYTES, 0)
        pictures = PreparedImages(
            images, manifest.preprocessing, decode_limit_bytes=None if left is None else PICTURE_BYTES + left
        )
        start = time.perf_counter()
        found = measured(session, pictures, wanted, pairs, seed, at_once, guard, progress)
        bundle.check_unchanged()
    seconds = time.perf_counter() - start
    outline = _with_todays_head(taps.outline, manifest.plan.outline)
    tables = {name: scores_of(moments, wanted[name], outline) for name, moments in found.items()}
    notes = [n for name, moments in found.items() for n in notes_on(name, list(wanted[name]), moments, pairs, "pairs")]
    return ScoreTable(
        method=method,
        components=tables.pop(method),
        others=tables,
        outline=outline,
        graph=taps.graph,
        classes=tuple(images.classes),
        seconds=dict.fromkeys(wanted, seconds),
        notes=(*notes, f"Measured on a device by {runtime_name()}, with the weights as the bundle stores them."),
        memory=MemoryReport(
            budget_bytes=guard.allowed_bytes,
            predicted_peak_bytes=predicted,
            measured_peak_bytes=measured_peak_bytes(),
            enforced_by=guard.enforced_by,
        ),
    )


def predicted_peak(
    manifest: Manifest,
    pairs: int,
    resident_bytes: int,
    *,
    state_bytes: int | None = None,
    beside: Sequence[Footprint] = (),
    picture_bytes: int = PICTURE_BYTES,
) -> int:
    """Return the peak resident set of a process that scores.

    Args:
        manifest: of a bundle with a score graph.
        pairs: in the graph at once.
        resident_bytes: of the process before the bundle's graph and weights are opened.
        state_bytes: parameters, and what else a run that scores in between keeps of them; by default parameters alone.
        beside: graphs without gradients that stay open.
        picture_bytes: for decoding a picture.
    """
    assert manifest.scoring is not None
    height, width = manifest.preprocessing.image_size
    open_graphs = (manifest.scoring, *beside)
    return peak_bytes(
        resident_bytes=resident_bytes,
        graph_bytes=sum(graph.graph_bytes for graph in open_graphs),
        mapped_bytes=sum(graph.frozen_bytes for graph in open_graphs),
        state_bytes=4 * manifest.scoring.held_parameters if state_bytes is None else state_bytes,
        # As they are decoded one by one, and in one piece.
        pictures_bytes=2 * 2 * pairs * 4 * manifest.preprocessing.channels * height * width,
        transient_bytes=manifest.scoring.transient_bytes(pairs),
        forward_sessions=len(beside),
        picture_bytes=picture_bytes,
    )


def no_score_graph(bundle: Bundle) -> str:
    """Say why a bundle cannot be scored, and what to do."""
    return (
        f"{bundle.path} has no {SCORE_GRAPH}: it was exported before bundles could be scored on a device, or its model "
        "has no component between its embedding and its head. Export it again with this edgeplast, or score the model "
        "on the workstation: edgeplast score MODEL --data images/ -o scores.json"
    )


class ScoringSession:
    """Measures distances with the weights as they are.

    Args:
        bundle: whose score graph.
        parameters: arrays for every parameter input, read at each call; float32, C-contiguous.
        threads: of the runtime.
        placement: where the graph runs.
    """

    def __init__(
        self, bundle: Bundle, parameters: Mapping[str, np.ndarray], threads: int, placement: Placement
    ) -> None:
        graph = bundle.path / SCORE_GRAPH
        self._session = open_session(graph, threads, placement)
        told = dict(self._session.get_modelmeta().custom_metadata_map)
        self.taps = ScoreTaps.unpacked(told.get(TAPS, ""), where=str(graph))
        self._binding = self._session.io_binding()
        wanted = {i.name for i in self._session.get_inputs()}
        held = {name: array for name, array in parameters.items() if name in wanted}
        self._standing = StandingInputs(self._binding, held, placement)
        self._stop = Stop(import_onnxruntime().RunOptions())

    def stop(self, reason: str) -> None:
        """End the run in progress, from another thread; ``distances`` then raises OutOfMemoryError."""
        self._stop.ask(reason)

    def distances(self, pictures: np.ndarray) -> np.ndarray:
        """Return the squared distance at each tap, float64 (b, taps), of pairs float32 (2b, C, H, W).

        What may be rounding is 0; what is not finite stays so.
        """
        result = np.empty((len(pictures) // 2, 2 * self.taps.taps), np.float32)
        self._standing.refresh()
        bind_input(self._binding, PAIRS, pictures)
        self._binding.clear_binding_outputs()
        bind_output(self._binding, DISTANCES, result)
        run_bound(self._session, self._binding, self._stop)
        squares, first = result.astype(np.float64).reshape(len(result), -1, 2).transpose(2, 0, 1)
        return np.where(squares < ROUNDING**2 * first, 0.0, squares)


@dataclass(frozen=True)
class _Columns:
    """Where the components of one method lie."""

    names: list[str]
    units: list[UnitTaps]

    def slopes(self, squares: np.ndarray) -> np.ndarray:
        """Return the slope of each component, float64 (b, components), from squares (b, taps)."""
        moved, distance = (
            np.sqrt(np.stack([squares[:, list(end)].sum(axis=1) for end in ends], axis=1))
            for ends in ([u.sink for u in self.units], [u.source for u in self.units])
        )
        for at, found in (("input", distance), ("output", moved)):
            if not np.isfinite(found).all():
                wrong = self.names[int(np.argmax(~np.isfinite(found).all(axis=0)))]
                raise NotFiniteError(
                    f"{wrong}: its {at} is NaN or infinite, so it has no score. The weights are damaged or diverged: "
                    "go back to a bundle that works (edgeplast roll-back, or the one that was adapted)."
                )
        return ratios(moved, distance)


def scores_of(moments: Moments, names: Iterable[str], outline: Outline) -> dict[str, ComponentScore]:
    """Return what was measured of components as their scores, by name."""
    sizes = {c.name: c.size for c in outline.components}
    return {
        name: ComponentScore(
            score=float(moments.mean[i]),
            parameters=sizes[name],
            standard_error=float(moments.standard_error[i]),
            samples=int(moments.count[i]),
        )
        for i, name in enumerate(names)
    }


def measured(
    session: ScoringSession,
    pictures: PreparedImages,
    wanted: Mapping[str, Mapping[str, UnitTaps]],
    pairs: int,
    seed: int,
    at_once: int,
    guard: Guard,
    progress: Progress,
) -> dict[str, Moments]:
    """Go through pairs until each method's ranking has settled.

    Args:
        session: measures distances.
        pictures: of which pairs are drawn.
        wanted: score method to components, and where each starts and ends.
        pairs: the most.
        seed: of the pairs.
        at_once: pairs in the graph; fewer where memory does not suffice.
        guard: of what the process may hold.
        progress: told of each chunk of pairs.

    Raises:
        OutOfMemoryError: one pair is too much.
        NotFiniteError: a component's input or output is no finite number.
        InputError: a picture cannot be read, nor another of its class.
    """
    drawn = draw_pairs(pictures, None, pairs, seed)
    columns = {name: _Columns(list(units), list(units.values())) for name, units in wanted.items()}
    found = {name: Moments.none(len(units)) for name, units in wanted.items()}
    going = list(wanted)
    progress("scoring", 0, len(drawn))
    with guard.able_to_end(session.stop):
        for done in range(0, len(drawn), CHUNK):
            chunk, squares = drawn[done : done + CHUNK], []
            while chunk:
                try:
                    if at_once > 1 and (short := guard.pressure()):
                        raise OutOfMemoryError(short)
                    batch = np.stack([group.tensor(i) for pair in chunk[:at_once] for group, i in pair])
                    squares.append(session.distances(batch))
                except (MemoryError, OutOfMemoryError) as error:
                    if at_once == 1:
                        raise error if isinstance(error, OutOfMemoryError) else OutOfMemoryError(str(error)) from error
                    at_once //= 2
                    release_arena()
                    continue
                guard.move_wall()
                chunk = chunk[at_once:]
            whole = np.concatenate(squares)
            for name in going:
                found[name] = found[name].merged(Moments.of(columns[name].slopes(whole)))
            going = [name for name in going if not settled(found[name])]
            progress("scoring", min(done + CHUNK, len(drawn)), len(drawn))
            if not going:
                break
    return found


def _with_todays_head(exported: Outline, now: Outline) -> Outline:
    """Return the outline of the model as it was exported, with the head that it has since classes were added."""
    head = {c.name: c for c in now.components if c.role == "head"}
    components = tuple(head.get(c.name, c) for c in exported.components)
    return msgspec.structs.replace(exported, classes=now.classes, components=components)


def _methods(names: Sequence[str], taps: ScoreTaps) -> list[str]:
    for name in names:
        if name not in taps.methods:
            raise one_of("score method of this bundle", name, tuple(taps.methods))
    return list(dict.fromkeys(names))


def _fitting(manifest: Manifest, most: int, held: int, allowed: int | None) -> tuple[int, int]:
    """Return how many pairs are in the graph at once, and the peak that is predicted for it.

    Raises:
        BudgetError: one is too many.
    """
    for pairs in (n for n in (4, 2, 1) if n <= most):
        predicted = predicted_peak(manifest, pairs, held)
        if allowed is None or predicted <= allowed:
            return pairs, predicted
    enough = -(-(predicted + STARTS_DIFFER_BYTES) // (1 << 20))
    raise BudgetError(
        f"{format_bytes(allowed or 0)} of memory are not enough to score {manifest.model}: one pair of pictures needs "
        f"about {format_bytes(predicted)}, of which {format_bytes(held)} are Python and the runtime. "
        f"Allow --memory {enough}MiB."
    )
