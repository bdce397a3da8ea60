"""From a model to a bundle in one call: score, plan, export, and on request prune before and choose bits after.

The order is known here, for Python and the command line alike; each step is the verb of its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast import compressing, merging, verbs
from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.errors import UsageError, one_of
from edgeplast.files import possible
from edgeplast.given import whom
from edgeplast.outline import Outline
from edgeplast.plans import Plan
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent, unheard
from edgeplast.scores import DEFAULT_METHOD

if TYPE_CHECKING:
    import torch

    from edgeplast.trust.signing import Signs
    from edgeplast_devices.images import ImageSet
    from edgeplast_exporters.storing import FrozenCompute

_FINER = re.compile(r"(lora|lora-fa|bias|norms)(:|@|$)")

Bits = tuple[int, Mapping[str, int]]
"""Bits of frozen matrices, and of components that are named."""


def check_way(*, planned: bool, pictured: bool, keep: float | None, distill_steps: int) -> None:
    """Raise unless what is asked of :func:`make_bundle` goes together; no model is needed.

    Args:
        planned: a plan is given.
        pictured: images are.
        keep: as there.
        distill_steps: as there.

    Raises:
        UsageError: it does not.
    """
    if not planned and not pictured:
        raise UsageError("Give --data with images to score on, or --plan with a plan made earlier.")
    if keep is not None and (planned or not pictured):
        raise UsageError(
            "--prune makes another model, whose plan is made after it: give --data, and no --plan. To plan a "
            "pruned model by hand, write it first: edgeplast prune MODEL --data DIR --keep 0.7 -o pruned/"
        )
    if distill_steps and keep is None:
        raise UsageError("--distill-steps goes with --prune: what was not pruned has nothing to recover.")


def make_bundle(
    model: torch.nn.Module,
    images: str | Path | ImageSet | None,
    budget: Budget | None = None,
    *,
    into: str | Path,
    plan: Plan | None = None,
    classes: Sequence[str] | None = None,
    keep_head: bool = False,
    preprocessing: Preprocessing | None = None,
    method: str = DEFAULT_METHOD,
    pairs: int = 64,
    strategy: str = "best",
    train: str | None = None,
    choose: str = "planned",
    minutes: float = 20.0,
    optimizer: str = "adamw",
    batch_size: int = 16,
    weight_bits: int | Callable[[Outline], Bits] = 8,
    size_bytes: int | None = None,
    max_accuracy_drop: float | None = None,
    frozen_compute: FrozenCompute = "fp32",
    calibration_images: int = 64,
    keep: float | None = None,
    distill_steps: int = 0,
    alternatives: bool = False,
    merge_tokens: int = 0,
    seed: int = 0,
    force: bool = False,
    sign: Signs = None,
    progress: Progress = silent,
    notice: Callable[[str], None] = unheard,
) -> Bundle:
    """Score a model, plan what trains under a budget, and write the bundle for a device.

    Args:
        model: not changed; see :func:`edgeplast.score`.
        images: a folder, archive or npz of labelled images, or an opened set, to score and calibrate on; with a
            ``plan`` they can be None where nothing is calibrated.
        budget: of the device; by default no limit.
        into: the folder to write.
        plan: what trains, instead of scoring and planning now.
        classes: names of the new head, in label order; by default those of the images.
        keep_head: start from the model's own head instead of a fresh one.
        preprocessing: by default timm's data configuration of the model.
        method: score to plan by.
        pairs: most pairs of images to score on.
        strategy: how to choose what trains.
        train: what trains, by name, e.g. ``"attn:8-11,head"``; by default what the strategy chooses.
        choose: ``"planned"``, by strategy or name; or ``"measured"``: the usual plans compete on the images, as in
            :func:`edgeplast.compare`, whose folder is ``<into>.comparison``.
        minutes: with ``"measured"``: of the contest.
        optimizer: whose state the budget is computed with.
        batch_size: images an optimizer step is computed from.
        weight_bits: of each stored element of frozen matrices, 32, 8 or 4; or, for components of their own, what
            returns the bits of all and of those that it names.
        size_bytes: choose the bits so that the bundle is no larger.
        max_accuracy_drop: choose the bits so that no more points of accuracy are lost on held-out images.
        frozen_compute: ``"int8"``: frozen matrices before everything that trains multiply in integers.
        calibration_images: how many images to calibrate on, at most.
        keep: prune first, to this share of the multiply–accumulates.
        distill_steps: of recovery after pruning.
        alternatives: write graphs of other sets too, among which a device chooses (``adapt`` with ``rescore``); the
            plan leaves room for what their weights take.
        merge_tokens: in each block before everything that trains, so many tokens are merged into similar ones.
        seed: of the pairs, and of the images calibrated on.
        force: replace what is there.
        sign: a private key, or its file, that signs the bundle.
        progress: told of each step.
        notice: told what each run of a contest has shown.

    Raises:
        UsageError: options that do not go together, or ``into`` exists; for other errors see the verbs.
    """
    check_way(planned=plan is not None, pictured=images is not None, keep=keep, distill_steps=distill_steps)
    check_choice(choose, strategy, train, planned=plan is not None)
    check_alternatives(alternatives, automatic=size_bytes is not None or max_accuracy_drop is not None, train=train)
    if merge_tokens:
        merging.check_tokens(model, merge_tokens, plan)
    _, sign = whom(None, sign)  # a key that cannot be used is better known before minutes of work
    if keep is not None:
        assert images is not None
        model = compressing.prune(
            model,
            images,
            keep=keep,
            distill_steps=distill_steps,
            pairs=pairs,
            preprocessing=preprocessing,
            seed=seed,
            progress=progress,
        ).model
    if choose == "measured":
        if not isinstance(weight_bits, int):
            raise UsageError('choose="measured" takes one number of bits: weight_bits=8, say.')
        plan = _measured(
            model,
            images,
            budget,
            into=contest_of(into),
            minutes=minutes,
            classes=classes,
            keep_head=keep_head,
            preprocessing=preprocessing,
            method=method,
            pairs=pairs,
            optimizer=optimizer,
            batch_size=batch_size,
            weight_bits=weight_bits,
            frozen_compute=frozen_compute,
            alternatives=alternatives,
            merge_tokens=merge_tokens,
            seed=seed,
            force=force,
            progress=progress,
            notice=notice,
        )
    elif plan is None:
        from edgeplast.planning import with_room

        assert images is not None
        scores = verbs.score(
            model, images, method=method, pairs=pairs, seed=seed, preprocessing=preprocessing, progress=progress
        )
        overall, named = (weight_bits, {}) if isinstance(weight_bits, int) else weight_bits(scores.outline)

        def made(budget: Budget) -> Plan:
            return verbs.plan(
                scores,
                budget,
                strategy=strategy,
                train=train,
                optimizer=optimizer,
                batch_size=batch_size,
                weight_bits=overall,
                component_weight_bits=named,
                classes=tuple(classes) if classes else None,
                progress=progress,
            )

        plan = made(budget or Budget())
        plan = with_room(plan, made) if alternatives else plan
    elif alternatives:
        from edgeplast.planning import with_room

        with_room(plan)  # raises where there is none
    if merge_tokens:
        progress("merging tokens", 0, 0)
        model, plan = merging.merge_tokens(model, plan, merge_tokens, keep_head=keep_head)
    if size_bytes is not None or max_accuracy_drop is not None:
        if images is None:
            raise UsageError("Bits are chosen by measuring. Give images with --data, or the bits by number.")
        plan = compressing.choose_bits(
            model,
            plan,
            images,
            size_bytes=size_bytes,
            max_accuracy_drop=max_accuracy_drop,
            classes=classes,
            keep_head=keep_head,
            preprocessing=preprocessing,
            calibration_images=calibration_images,
            seed=seed,
            progress=progress,
        )
    return verbs.export(
        model,
        plan,
        into=into,
        classes=classes,
        keep_head=keep_head,
        preprocessing=preprocessing,
        frozen_compute=frozen_compute,
        images=images,
        calibration_images=calibration_images,
        seed=seed,
        alternatives=alternatives,
        force=force,
        sign=sign,
        progress=progress,
    )


def check_alternatives(alternatives: bool, *, automatic: bool, train: str | None = None, form: str = "bundle") -> None:
    """Raise unless alternatives go together with what else is asked for.

    Args:
        alternatives: whether they are asked for.
        automatic: bits are chosen by measuring.
        train: what trains, by name.
        form: of what is written.

    Raises:
        UsageError: they do not.
    """
    if alternatives and form != "bundle":
        raise UsageError(
            f"--format {form} takes one plan, which --alternatives would stand beside. Leave out one of them."
        )
    if alternatives and automatic:
        raise UsageError(
            "--alternatives keeps in 32 bits what any of them trains, so --weight-bits auto has little to choose from. "
            "Leave out one of them."
        )
    finer = next((word for word in (train or "").split(",") if _FINER.match(word.strip())), None)
    if alternatives and finer:
        raise UsageError(
            f"Alternatives are sets of whole components, and --train names a finer part ({finer.strip()}). Leave out "
            "one of them."
        )


def check_choice(choose: str, strategy: str, train: str | None, *, planned: bool) -> None:
    """Raise unless it is said in one way what trains.

    Raises:
        UsageError: there is no such way to choose, or two are given.
    """
    if choose not in ("planned", "measured"):
        raise one_of("--choose", choose, ("planned", "measured"))
    if choose == "measured" and (planned or train or strategy != "best"):
        given = "--plan" if planned else f"--train {train}" if train else f"--strategy {strategy}"
        raise UsageError(
            f"--choose measured finds out what trains, and {given} says it. Give one of them; for a contest of "
            "candidates of your own: edgeplast compare MODEL --candidates …, then export --plan."
        )
    if planned and (train or strategy != "best"):
        raise UsageError(
            f"--plan says what trains, and {f'--train {train}' if train else f'--strategy {strategy}'} too. Give one "
            "of them; another plan is made of the same scores by: edgeplast plan scores.json --train … -o plan.json"
        )


def contest_of(into: str | Path) -> Path:
    """Return the folder of the contest by which a bundle's plan is chosen."""
    return possible(into).with_name(f"{Path(into).name}.comparison")


def _measured(model: torch.nn.Module, *how: Any, **more: Any) -> Plan:
    from edgeplast.comparing.contest import compare

    found = compare(model, *how, **more)
    more["notice"](str(found))
    return found.plan
