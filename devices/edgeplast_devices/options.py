"""How a device trains: everything that decides the result of a run, beside bundle, images and budget."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

import msgspec

from edgeplast.contract import is_low_rank
from edgeplast.errors import UsageError, one_of
from edgeplast.optimizers import optimizer_facts
from edgeplast.outline import Component
from edgeplast.units import parse_bytes
from edgeplast_devices.cache import BITS
from edgeplast_devices.images import Augmentation
from edgeplast_devices.objectives import OBJECTIVES
from edgeplast_devices.providers import CPU, PROVIDERS, RUNTIMES
from edgeplast_devices.schedules import SCHEDULES

WITHOUT_TRAINING = ("recentre", "prototypes")
METHODS = (*OBJECTIVES, *WITHOUT_TRAINING)
"""Ways to learn without labels: what trains towards an objective, or a head that is adjusted without training."""

TETHER = 0.03
"""How far weights may move without labels (``move_at_most``).

Test accuracy of ViT-Tiny with ``lora:8`` over how far 140 pictures had moved it: snow 50.5 at 0, 60.0 at 0.028, 54.8 at
0.042 and at 0.065; JPEG 73.3, 73.8 at 0.024, 67.6 at 0.059; little contrast 43.8, 57.6 at 0.028, 64.3 at 0.043, 71.4 at
0.066.
"""

WITHOUT_LABELS = 0.1
"""Share of the usual learning rate that is taken without labels.

At the whole of it the same weights moved by a quarter of their norm within ten steps, and clean pictures fell from 84.3
to 76.2 %.
"""

_MOST_OFTEN = 1_000_000_000

RESCORE = ("none", "once", "every-epoch")
"""When a run measures scores of its own."""

HEADS = ("kept", "zero", "fitted")
NEW_HEAD = "zero"
"""What a head starts from that has learned nothing yet (README.md, The head)."""


class Interval(msgspec.Struct, frozen=True):
    """How often something is done: every so many optimizer steps, or every so many seconds.

    Attributes:
        steps: None where the interval is in seconds.
        seconds: None where it is in steps.
    """

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read ``20`` or ``20steps``, ``30s``, ``5min``, ``1h``.

        Raises:
            UsageError: it is none of these, or zero.
        """
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(steps?|s|min|h|)\s*", text)
        amount, unit = (float(match[1]), match[2]) if match else (0.0, "")
        if not 0 < amount <= _MOST_OFTEN or (unit in ("", "step", "steps") and amount != int(amount)):
            given = text if len(text) <= 40 else f"{text[:40]}…"
            raise UsageError(
                f"--checkpoint-every {given!r} is no interval; give for example 20steps, 30s, 5min or 1h "
                f"({_MOST_OFTEN:,} of them at most)."
            )
        if unit in ("", "step", "steps"):
            return cls(steps=int(amount))
        return cls(seconds=amount * {"s": 1, "min": 60, "h": 3600}[unit])

    def is_over(self, steps: int, seconds: float) -> bool:
        """Say whether it has passed, given what was done since the last time."""
        return steps >= self.steps if self.steps is not None else seconds >= (self.seconds or 0.0)


class TrainingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of ``adapt``, with their defaults.

    Attributes:
        epochs: passes over the training images; 0 with a fitted head, which is then all that is learned.
        batch: images an optimizer step is computed from; None takes the plan's.
        micro_batch: most images that pass through the graph at once; None takes the fastest that fits.
        optimizer: ``adamw`` or ``sgd``; None takes the plan's.
        learning_rate: the peak; None chooses by what trains, see :func:`default_learning_rate`.
        head_learning_rate: the peak of the head; None chooses, see :func:`default_head_learning_rate`.
        head: what the head starts from: ``kept``, as the bundle has it, ``zero``, or ``fitted``, a logistic regression
            on features of the training images; None is ``kept`` for one that has learned and else :data:`NEW_HEAD`.
        schedule: ``cosine`` or ``constant``, after the warm-up.
        warmup: share of all steps over which the learning rate rises, in 0..1.
        weight_decay: of matrices; None is 0.05 for AdamW and 0 for SGD.
        momentum: of SGD.
        clip: largest global gradient norm; 0 switches clipping off.
        label_smoothing: in 0..1.
        class_weights: ``none`` or ``balanced``.
        augment: ``default`` (random resized crop and flip) or ``none``.
        labels: ``given``, or ``none``: what the pictures show is not known, or not to be looked at.
        method: how to learn without labels; one of :data:`METHODS`.
        move_at_most: without labels, how far weights may move from where the run began, in L2 over all that trains, as
            a share of their norm; None is :data:`TETHER`.
        exclude: patterns of folders, names or paths of pictures that are left out.
        add_classes: names of classes that are added to the bundle's.
        new_classes: ``add`` what pictures show and the bundle does not know, or ``error``.
        replay: pictures of each class that are kept in the adapted folder and mixed into later runs: ``20/class``, or
            ``none``; None goes on as the bundle does, a fresh one with none.
        distill: share of a picture's targets that is what the model said of it before the run, 0 to 1; the rest is its
            label.
        versions: how many versions an adapted bundle keeps beside the bundle as it came; 0 keeps none, not even that.
        keep_within: points of accuracy that other sets may lose; the run stops when one loses more, and the last
            weights that kept them are kept. None measures other sets and sets no limit.
        false_alarms: share of held-out pictures of known classes that may be called unknown, 0 to 0.5.
        patience: epochs without a better validation loss before stopping early; 0 never stops early.
        seed: of the data order, the augmentation and the validation split.
        threads: of the runtime; None uses all cores this process may use.
        disk: most that the output may take on disk, while it is made and when it is done, such as ``2GiB``: copies,
            checkpoints, versions, cache, kept pictures; ``none`` for no limit. See ``disk``.
        cache: what the run may keep on disk of the model's prefix: ``auto`` (up to half of what is free, and
            no more than ``disk`` leaves), ``none``, or a size such as ``2GiB``.
        views: of each training picture that are kept, the first as it is, others varied; epochs take turns. None
            chooses, see ``caching``.
        cache_bits: of one number that is kept; one of ``cache.BITS``.
        checkpoint_every: how often the state is saved: ``20steps``, ``5min``, ``30s``; see :class:`Interval`.
        runtime: the build of onnxruntime: ``ort-training``, ``stock``, or ``auto`` for the one that is installed.
        provider: the execution provider; see ``placing``.
        private: names of pictures (unreadable, named wrong) stay out of report, checkpoints and telemetry.
        probe: measure a linear probe beside before and after; see ``probing``.
        rescore: ``none``; or ``once``, before the first step, or ``every-epoch``, before each, measure the components'
            scores and train the set of components that they favour, of those that the bundle has graphs of.
        rung: the way to take a step that the run begins on where it fits, as a report names it, such as
            ``full:8:none`` (tier, micro-batch, what is computed again); None takes the fastest that fits.
    """

    epochs: int = 4
    batch: int | None = None
    micro_batch: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    head: str | None = None
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float | None = None
    momentum: float = 0.9
    clip: float = 1.0
    label_smoothing: float = 0.0
    class_weights: str = "none"
    augment: str = "default"
    labels: str = "given"
    method: str = "information"
    move_at_most: float | None = None
    exclude: tuple[str, ...] = ()
    add_classes: tuple[str, ...] = ()
    new_classes: str = "error"
    replay: str | None = None
    distill: float = 0.0
    versions: int = 8
    keep_within: float | None = None
    false_alarms: float = 0.05
    patience: int = 0
    seed: int = 0
    threads: int | None = None
    disk: str = "none"
    cache: str = "auto"
    views: int | None = None
    cache_bits: int = 16
    checkpoint_every: str = "5min"
    runtime: str = "auto"
    provider: str = CPU
    private: bool = False
    probe: bool = True
    rung: str | None = None
    rescore: str = "none"

    WITHOUT_EFFECT_ON_THE_RESULT: ClassVar[tuple[str, ...]] = (
        "micro_batch",
        "threads",
        "checkpoint_every",
        "disk",
        "cache",
        "runtime",
        "provider",
        "private",
        "probe",
        "versions",
        "rung",
    )

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 0, 100_000), ("batch", 1, 65_536), ("micro_batch", 1, 65_536), ("learning_rate", 0.0, 1e3),
            ("head_learning_rate", 0.0, 1e3), ("warmup", 0.0, 1.0), ("weight_decay", 0.0, 1e3), ("momentum", 0.0, 1.0),
            ("clip", 0.0, 1e9), ("label_smoothing", 0.0, 1.0), ("patience", 0, 100_000),
            ("distill", 0.0, 1.0), ("versions", 0, 10_000), ("keep_within", 0.0, 100.0), ("false_alarms", 0.0, 0.5),
            ("seed", 0, 2**63), ("threads", 1, 1024), ("views", 1, 1000), ("move_at_most", 0.0, 100.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = name.replace("_", "-")
                allowed = " to ".join(f"{end:g}" if isinstance(end, float) else str(end) for end in (low, high))
                raise UsageError(f"--{flag} {value} is out of range; allowed is {allowed}.")
        if self.optimizer is not None:
            optimizer_facts(self.optimizer)
        if self.head is not None and self.head not in HEADS:
            raise one_of("head", self.head, HEADS)
        if self.epochs == 0 and self.head != "fitted":
            raise UsageError("--epochs 0 learns nothing but a fitted head: give --head fitted with it, or --epochs 1.")
        if self.schedule not in SCHEDULES:
            raise one_of("schedule", self.schedule, SCHEDULES)
        if self.class_weights not in ("none", "balanced"):
            raise one_of("class weights", self.class_weights, ("none", "balanced"))
        if self.labels not in ("given", "none"):
            raise one_of("--labels", self.labels, ("given", "none"))
        if self.method not in METHODS:
            raise one_of("method without labels", self.method, METHODS)
        if self.labels == "given" and self.method != "information":
            raise UsageError(
                f"--method {self.method} says how to learn without labels. Give --labels none with it, or leave it out."
            )
        if self.labels == "given" and self.move_at_most is not None:
            raise UsageError(
                f"--move-at-most {self.move_at_most:g} bounds what is learned without labels. Give --labels none with "
                "it, or leave it out."
            )
        if self.new_classes not in ("error", "add"):
            raise one_of("--new-classes", self.new_classes, ("error", "add"))
        if self.replay is not None and self.replay != "none" and not re.fullmatch(r"[1-9]\d{0,5}/class", self.replay):
            raise UsageError(f"--replay {self.replay[:40]!r} is not possible; give for example 20/class, or none.")
        if self.labels == "none" and self.replay not in (None, "none"):
            raise UsageError("Without labels no pictures are kept by class. Leave out --replay.")
        if self.labels == "none" and (self.add_classes or self.new_classes == "add"):
            raise UsageError("Without labels no class can be added. Leave out --add-class and --new-classes.")
        if self.labels == "none" and self.class_weights != "none":
            raise UsageError("Without labels no class can be weighted. Leave out --class-weights.")
        if self.labels == "none" and self.distill:
            raise UsageError("Without labels there is nothing to distil beside them. Leave out --distill.")
        if self.labels == "none" and self.head not in (None, "kept"):
            raise UsageError(f"Without labels the head stays what it is; --head {self.head} needs them. Leave it out.")
        if self.rescore not in RESCORE:
            raise one_of("--rescore", self.rescore, RESCORE)
        if self.runtime not in RUNTIMES:
            raise one_of("runtime", self.runtime, RUNTIMES)
        if self.provider not in PROVIDERS:
            raise one_of("provider", self.provider, PROVIDERS)
        if self.cache_bits not in BITS:
            raise one_of("--cache-bits", str(self.cache_bits), tuple(map(str, BITS)))
        if self.disk != "none":
            parse_bytes(self.disk)
        if self.cache not in ("auto", "none"):
            parse_bytes(self.cache)
        elif self.cache == "none" and self.views is not None:
            raise UsageError("--views says how many views of a picture are kept; --cache none keeps none of them.")
        if self.rung is not None and not re.fullmatch(r"[^:\s]{1,40}:[1-9]\d{0,4}:[a-z]{1,20}", self.rung):
            raise UsageError(
                f"--rung {self.rung[:40]!r} is no way to take a step; give what a report's options name, such as "
                "full:8:none, or leave it out for the fastest that fits."
            )
        Augmentation.named(self.augment)
        Interval.parse(self.checkpoint_every)


def default_learning_rate(components: Iterable[Component], optimizer: str) -> float:
    """Return the peak learning rate for what trains.

    For AdamW: 3e-3 for the head (with or without the norms before it), 1e-3 where nothing but norms and other vectors
    train beside it, 5e-4 where one kind of matrix trains (attn, fc1 or fc2) and 2e-4 where several do: near the best of
    1e-4 to 1e-2 for each on RSSCN7 with ViT-Tiny (scoring/README.md). Low-rank factors, whose product starts at zero,
    take 2e-3 (rank 8, two epochs there: 76.7 % at 5e-4, 77.6 at 1e-3, 81.0 at 2e-3). SGD takes thirty times as much.
    """
    body = [c for c in components if c.role not in ("head", "norm")]
    with_matrices = [c for c in body if any(len(shape) > 1 for shape in c.parameters.values())]
    kinds = {c.kind for c in with_matrices}
    if with_matrices and all(map(is_low_rank, (p for c in with_matrices for p in c.parameters))):
        rate = 2e-3
    else:
        rate = 2e-4 if len(kinds) > 1 else 5e-4 if kinds else 1e-3 if body else 3e-3
    return rate * optimizer_facts(optimizer).rate_factor


def default_head_learning_rate(learning_rate: float, optimizer: str, *, new: bool) -> float:
    """Return the peak learning rate of the head beside one of everything else.

    A head that knows nothing yet learns as fast as where it learns alone. At the body's rate it stays small: on
    sketches (fc1 everywhere trained, 4 epochs) its probabilities were off by 0.2, against 0.07 at ten times that rate,
    and the accuracy was half a point to a point lower. A head that has learned goes on at the body's rate.
    """
    alone = default_learning_rate((), optimizer)
    return max(learning_rate, alone) if new else learning_rate
