"""What a run starts from: its splits, what the process holds already, the ladder, options filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from edgeplast.bundle import Bundle, Manifest, Tier
from edgeplast.errors import InputError, UsageError
from edgeplast.footprint import PICTURE_BYTES
from edgeplast.plans import Plan
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import unheard
from edgeplast.units import format_bytes
from edgeplast_devices.checkpoints import check_same_run
from edgeplast_devices.growing import present
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import (
    ImageSet,
    Splits,
    Unreadable,
    batches,
    require_classes,
    require_labels,
    require_readable,
)
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.options import (
    NEW_HEAD,
    TETHER,
    WITHOUT_LABELS,
    TrainingOptions,
    default_head_learning_rate,
    default_learning_rate,
)
from edgeplast_devices.retention import aligned_others, check_keeps
from edgeplast_devices.run_state import Lost, RunState
from edgeplast_devices.rungs import STARTS_DIFFER_BYTES, Manner, Rung, choose, ladder, predicted_peak, tier_in
from edgeplast_devices.runtime import read_in
from edgeplast_devices.weights import head_is_new

_LEAST_BATCH_WITHOUT_LABELS = 32
"""What a picture should become depends on what the whole batch is called; 32 was tried (devices/README.md)."""


def aligned(images: Splits, bundle: Bundle, options: TrainingOptions, *, least_classes: int = 2) -> dict[str, ImageSet]:
    """Return the splits that there are, with labels that index the bundle's classes.

    Raises:
        UsageError: what is to be kept cannot be measured.
        InputError: training images of fewer classes than that, or without labels; or they are to be learned from
            without labels, and the head knows nothing that could be carried over to them.
    """
    classes = bundle.manifest.classes
    check_keeps(options.keep_within, images.also)
    train = images.train.aligned_to(classes) if options.labels == "given" else images.train.without_labels()
    if options.labels == "given":
        require_labels(train, "learning")
        alone = present(train, bundle.manifest.waiting)
        require_classes(train, 1 if alone and options.head in (None, "kept") else least_classes)
    elif head_is_new(bundle):
        raise InputError(
            "The head of this bundle has learned nothing yet, and without labels it cannot begin. Adapt it with some "
            "labelled pictures first, or export it with a head that knows these classes (--keep-head)."
        )
    splits = {"train": train}
    for name, split in (("val", images.val), ("test", images.test)):
        if split is not None and len(split):
            hidden = options.labels == "none" and name == "val"
            splits[name] = split.without_labels() if hidden else split.aligned_to(classes)
    return splits | aligned_others(images.also, classes)


def default_batch(plan: Plan, options: TrainingOptions) -> int:
    """Return how many images a step is computed from: without labels enough to show several classes."""
    return max(plan.batch_size, _LEAST_BATCH_WITHOUT_LABELS) if options.labels == "none" else plan.batch_size


def held_bytes(
    splits: Mapping[str, ImageSet],
    unreadable: Mapping[str, Unreadable],
    preprocessing: Preprocessing,
    guard: Guard,
    threads: int,
) -> int:
    """Return what this process holds before a bundle is opened, once all that it needs for it was read in."""
    with guard.reading_in(threads):
        read_in(threads)
    for name, split in splits.items():
        limit = split.decode_limit_bytes
        if guard.allowed_bytes is not None:
            split.decode_limit_bytes = min(limit, PICTURE_BYTES)
        # Reads in the decoder and the random generators, and says early if there is nothing to read.
        next(batches(split, preprocessing, 1, unreadable=unreadable[name]))
        if name == "train" and split.classes:
            require_readable(split, preprocessing, unreadable[name])
        split.decode_limit_bytes = limit
    np.random.default_rng()
    return resident_bytes()


def rungs_from_here(
    manifest: Manifest,
    options: TrainingOptions,
    batch: int,
    optimizer: str,
    held: int,
    allowed_bytes: int | None,
    state: RunState | None,
    prefer: Callable[[list[Rung]], list[Rung]],
    manners: tuple[Manner, ...],
) -> list[Rung]:
    """Return the ladder from the rung to begin on: the best that fits, and no better than where the run stood.

    Args:
        manifest: of the bundle.
        options: as they were given.
        batch: images an optimizer step is computed from.
        optimizer: whose state is held.
        held: bytes that the process holds before the bundle is opened.
        allowed_bytes: the budget; None for no limit.
        state: of a run that goes on.
        prefer: puts the rung in front that is to be begun on, of those from the best that fits.
        manners: in which the process may keep house.

    Raises:
        BudgetError: no rung fits.
        UsageError: the bundle has no such rung as is asked for.
    """
    asked = tier_in(options.rung or "")
    rungs = ladder(manifest, batch, micro_batch=options.micro_batch, tier=asked)
    if options.rung is not None and options.rung not in {rung.key for rung in rungs}:
        raise UsageError(
            f"--rung {options.rung} is no way in which this bundle takes a step of {batch} images. It has "
            f"{', '.join(rung.key for rung in rungs[:4])} and others; or leave --rung out for the fastest that fits."
        )
    if state is not None:
        rungs = ladder(manifest, batch, micro_batch=options.micro_batch, tier=state.tier)
        names = list(dict.fromkeys(rung.tier.name for rung in rungs))
        here = names.index(state.tier) if state.tier in names else 0  # of another bundle, which is refused soon
        rungs = [rung for rung in rungs if names.index(rung.tier.name) >= here]
        if state.allowed_bytes == allowed_bytes:
            # The same rung again: then the result is the same bit for bit. Not where this process holds far more.
            at = [i for i, rung in enumerate(rungs) if rung.key == state.rung]
            if at and _fits_again(manifest, rungs[at[0]], optimizer, held, allowed_bytes, manners):
                return rungs[at[0] :]
    first = choose(manifest, rungs, optimizer, held, allowed_bytes, manners)
    return prefer(rungs[rungs.index(first) :])


def _fits_again(
    manifest: Manifest, rung: Rung, optimizer: str, held: int, allowed: int | None, manners: tuple[Manner, ...]
) -> bool:
    """Say whether a rung fits that fitted once, in a process that holds what this one does."""
    if allowed is None:
        return True
    least = min(predicted_peak(manifest, rung, optimizer, held, manner) for manner in manners)
    return least <= allowed + STARTS_DIFFER_BYTES


def begun(
    bundle: str,
    images: dict[str, str],
    options: TrainingOptions,
    allowed_bytes: int | None,
    picture_bytes: int | None,
    first: Rung,
) -> RunState:
    """Return the state of a run that begins.

    Args:
        bundle: its fingerprint.
        images: the fingerprint of each split.
        options: with everything filled in.
        allowed_bytes: the budget; None for no limit.
        picture_bytes: the most that decoding one picture may take; None for no limit.
        first: the rung to begin on.
    """
    return RunState(
        bundle=bundle,
        images=images,
        options=options,
        allowed_bytes=allowed_bytes,
        picture_bytes=picture_bytes,
        tier=first.tier.name,
        recompute=first.graph.recompute,
        micro_batch=first.micro_batch,
    )


def filled_in(
    options: TrainingOptions, bundle: Bundle, first: Tier, batch: int, optimizer: str, threads: int
) -> TrainingOptions:
    """Return options with everything decided that ``None`` leaves open; ``first`` is the tier that the run began on."""
    rate, head_rate = options.learning_rate, options.head_learning_rate
    if rate is None:
        trained = set(first.components)
        rate = default_learning_rate(
            (c for c in bundle.manifest.plan.outline.components if c.name in trained), optimizer
        )
        rate *= WITHOUT_LABELS if options.labels == "none" else 1.0
    new, head = head_is_new(bundle), options.head
    if head is None:
        head = NEW_HEAD if new else "kept"
    if head_rate is None:
        from_zero = head == "zero" or (head == "kept" and new)
        head_rate = default_head_learning_rate(rate, optimizer, new=from_zero)
    return msgspec.structs.replace(
        options,
        batch=batch,
        optimizer=optimizer,
        learning_rate=rate,
        head_learning_rate=head_rate,
        head=head,
        threads=threads,
        move_at_most=TETHER if options.labels == "none" and options.move_at_most is None else options.move_at_most,
    )


def taken_up(
    state: RunState,
    bundle: str,
    images: dict[str, str],
    options: TrainingOptions,
    allowed_bytes: int | None,
    picture_bytes: int | None,
    unreadable: Mapping[str, Unreadable],
    tell: Callable[[str], None] = unheard,
) -> RunState:
    """Return a checkpoint's state, as this process goes on from it: in the same budget it reads pictures as before.

    Not so where it holds so much more than the process before it that this would take memory which is not left.

    Args:
        state: of the checkpoint; changed.
        bundle: fingerprint of the one at hand.
        images: fingerprint of each split at hand.
        options: in force now.
        allowed_bytes: now.
        picture_bytes: the most that decoding one picture may take by what is resident now.
        unreadable: takes over what was found by then.
        tell: told where pictures are read otherwise.

    Raises:
        InputError: it is of another run.
    """
    check_same_run(state, bundle, images, options)
    # What is resident differs a little from one process to the next: by it alone, photos would be read at other scales.
    if state.allowed_bytes != allowed_bytes or state.picture_bytes is None or picture_bytes is None:
        state.picture_bytes = picture_bytes
    elif state.picture_bytes > picture_bytes + STARTS_DIFFER_BYTES:
        tell(
            f"This process holds more beside the run than the one before it did: decoding a photo may take "
            f"{format_bytes(picture_bytes)} of the budget now, where it was {format_bytes(state.picture_bytes)}. Some "
            "large photos are read at a smaller scale, so the result may differ from that of one run. To go on just as "
            "before, resume in a process that holds as little, such as the command line."
        )
        state.picture_bytes = picture_bytes
    state.options, state.allowed_bytes = options, allowed_bytes
    state.resumed_at.append(state.steps)
    for name, lost_here in unreadable.items():
        lost = state.lost.get(name, Lost())
        lost_here.restore(lost.names, lost.examples)
    return state
