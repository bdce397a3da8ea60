"""``edgeplast adapt``: fine-tune a bundle on this device's images, inside a memory budget."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeplast.adaptation import Adaptation, BeforeAfter, EpochReport, Judged
from edgeplast.cli.console import name_unreadable, print_json, print_table, progress_bar, say
from edgeplast.cli.kept import (
    new_ones,
    rows_of_others,
    start_of,
    what_is_kept,
    why_it_stopped,
    why_it_went_back,
    why_nothing_trained,
)
from edgeplast.cli.measured import change, rows_of_accuracy, rows_of_scores
from edgeplast.cli.options import (
    AdapterOption,
    DeviceOption,
    ExcludeOption,
    ProviderOption,
    RuntimeOption,
    SignOption,
    TrustedOption,
    budget_of,
    given_options,
    profile_of,
    provider_of,
    runtime_text,
    sign_of,
    threads_of,
    trusted_of,
)
from edgeplast.optimizers import IN_WORDS as OPTIMIZERS_IN_WORDS
from edgeplast.units import counted, format_bytes, format_seconds

if TYPE_CHECKING:
    from edgeplast_devices.options import TrainingOptions


def adapt(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Bundle folder from `edgeplast export`, or an adapted one.")],
    data: Annotated[
        Path,
        typer.Option(help="Images: a folder class/name.jpg (optionally under train/ val/ test/), a tar, zip or npz."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the adapted bundle and its report.")],
    adapter: AdapterOption = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Peak resident memory of this process, e.g. 256MiB (default: the bundle's), or none."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images; 0: a fitted head alone.")] = 4,
    batch: Annotated[int | None, typer.Option(help="Images per optimizer step (default: the plan's).")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Most images in the graph at once (default: the fastest that fits).")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"{OPTIMIZERS_IN_WORDS} (default: the plan's).")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Peak learning rate (default: by what trains).")
    ] = None,
    head_learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of the head (default: higher where it is new).")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Start of the head: zero, fitted (logistic regression), kept (default: kept; a new one zero)."
        ),
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine or constant, after the warm-up.")] = "cosine",
    warmup: Annotated[float, typer.Option(help="Share of all steps that warm up.")] = 0.1,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of matrices (default: 0.05 for adamw, 0 for sgd).")
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = 0.9,
    clip: Annotated[float, typer.Option(help="Largest global gradient norm; 0: no clipping.")] = 1.0,
    label_smoothing: Annotated[float, typer.Option(help="0 to 1.")] = 0.0,
    class_weights: Annotated[str, typer.Option(help="none, or balanced for imbalanced data.")] = "none",
    augment: Annotated[str, typer.Option(help="default (random resized crop, flip) or none.")] = "default",
    labels: Annotated[
        str, typer.Option(help="given, or none: learn from pictures of which nobody said what they show.")
    ] = "given",
    method: Annotated[
        str,
        typer.Option(
            help="With --labels none: information, shot, entropy, pseudo; nothing trains: recentre, prototypes."
        ),
    ] = "information",
    move_at_most: Annotated[
        float | None,
        typer.Option(help="How far weights may move without labels, as a share of their norm (default: 0.03)."),
    ] = None,
    add_class: Annotated[
        list[str] | None, typer.Option(help="Name of a class that the bundle does not know yet. Repeatable.")
    ] = None,
    new_classes: Annotated[
        str, typer.Option(help="What becomes of folders that are no class of the bundle: error, or add.")
    ] = "error",
    replay: Annotated[
        str | None,
        typer.Option(help="Pictures kept in the output, for later runs: 20/class, or none (default: as before)."),
    ] = None,
    distill: Annotated[
        float, typer.Option(help="Share of the targets that is what the bundle said before, e.g. 0.5: it forgets less.")
    ] = 0.0,
    versions: Annotated[
        int, typer.Option(help="Versions to keep in the output beside the bundle as it came; 0: none, nor that.")
    ] = 8,
    also: Annotated[
        list[Path] | None,
        typer.Option(help="Other labelled images, measured before and after: what must not be lost. Repeatable."),
    ] = None,
    keep_within: Annotated[
        float | None,
        typer.Option(help="Points of accuracy that --also may lose; the run goes back and stops when one loses more."),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="Share of known held-out pictures that predict --unknown may call unknown.")
    ] = 0.05,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better validation loss before stopping; 0: never.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of data order, augmentation and validation split.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Of the runtime (default: all usable cores).")] = None,
    runtime: RuntimeOption = "auto",
    provider: ProviderOption = None,
    device: DeviceOption = None,
    trusted: TrustedOption = None,
    sign: SignOption = None,
    disk: Annotated[
        str, typer.Option(help="Most that the output may take on disk, while it is made and after: 2GiB …, or none.")
    ] = "none",
    cache: Annotated[
        str, typer.Option(help="Disk for what never changes of a picture: auto (half of what is free), none, 2GiB …")
    ] = "auto",
    views: Annotated[
        int | None, typer.Option(help="Views of a picture to keep: as it is, and variations (default: 4).")
    ] = None,
    cache_bits: Annotated[int, typer.Option(help="Of one number in the cache: 32, 16 or 8.")] = 16,
    checkpoint_every: Annotated[
        str, typer.Option(help="How often the state is saved: 20steps, 30s, 5min, 1h.")
    ] = "5min",
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Keep names of pictures (not readable, named wrong) out of report, checkpoints and telemetry; "
            "counts stay.",
        ),
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="Beside before and after, measure what a head alone reaches: one more pass over the pictures.",
        ),
    ] = True,
    rescore: Annotated[
        str, typer.Option(help="none; once, every-epoch: score components here, and train the set that scores favour.")
    ] = "none",
    rung: Annotated[
        str | None,
        typer.Option(help="Way to take a step, as a report's run file pins it: full:8:none (default: the fastest)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of this output, if there is one.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output folder, and an interrupted run of it.")
    ] = False,
    exclude: ExcludeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Fine-tune the plastic components of a bundle on images, and write an adapted bundle with a report."""
    from edgeplast.verbs import adapt as run
    from edgeplast_devices.options import TrainingOptions

    profile = profile_of(device)
    threads = threads_of(threads, profile)
    provider = provider_of(provider, profile)
    options = TrainingOptions(
        epochs=epochs,
        batch=batch,
        micro_batch=micro_batch,
        optimizer=optimizer,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        head=head,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        momentum=momentum,
        clip=clip,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        augment=augment,
        labels=labels,
        method=method,
        move_at_most=move_at_most,
        exclude=tuple(exclude or ()),
        add_classes=tuple(add_class or ()),
        new_classes=new_classes,
        replay=replay,
        distill=distill,
        versions=versions,
        keep_within=keep_within,
        false_alarms=false_alarms,
        patience=patience,
        seed=seed,
        threads=threads,
        disk=disk,
        cache=cache,
        views=views,
        cache_bits=cache_bits,
        checkpoint_every=checkpoint_every,
        runtime=runtime,
        provider=provider,
        private=private,
        probe=probe,
        rung=rung,
        rescore=rescore,
    )
    if resume:
        options = _as_interrupted(options, output, context)
    budget = None if memory is None and profile is None else budget_of(memory, profile)
    with progress_bar(as_json, doing=f"opening {bundle}", told_otherwise=("epoch",)) as progress:
        report = run(
            bundle,
            data,
            into=output,
            adapter=adapter,
            also=also or [],
            budget=budget,
            options=options,
            resume=resume,
            force=force,
            trusted=trusted_of(trusted, profile),
            sign=sign_of(sign, profile),
            progress=progress,
            epoch_done=None if as_json else _Epochs(options.epochs, start_of(options.head)),
            notice=lambda text: say(text, err=True),
        )
    name_unreadable(report.unreadable, report.unreadable_examples)
    if as_json:
        print_json("adaptation", report.to_json(), output)
    else:
        _show(report, output)


def _as_interrupted(options: TrainingOptions, output: Path, context: typer.Context) -> TrainingOptions:
    """Return the options of the interrupted run, with those in their place that were given this time."""
    import msgspec

    from edgeplast_devices.adapting import interrupted_options

    before = interrupted_options(output)
    if before is None:
        return options
    given = given_options(context, options.__struct_fields__)
    given |= {"add_classes"} if given_options(context, ["add_class"]) else set()
    return msgspec.structs.replace(before, **{name: getattr(options, name) for name in given})


class _Epochs:
    """One line on standard error as each epoch ends."""

    def __init__(self, epochs: int, start: str) -> None:
        self._epochs, self._start, self._started = epochs, start, time.monotonic()

    def __call__(self, epoch: EpochReport) -> None:
        from edgeplast_devices.metrics import MOST

        now = time.monotonic()
        seconds, self._started = now - self._started, now
        parts = [f"training loss {epoch.training_loss:.3f}"] if epoch.training_loss < MOST else []  # none of no step
        if epoch.validation_loss is not None:
            accuracy = "" if epoch.validation_accuracy is None else f", accuracy {epoch.validation_accuracy:.1%}"
            parts.append(f"validation loss {epoch.validation_loss:.3f}{accuracy}")
        parts.append(format_seconds(seconds))
        said = f"epoch {epoch.epoch} of {self._epochs}" if epoch.epoch else self._start
        say(f"{said}: {', '.join(parts)}", err=True)


def _show(report: Adaptation, output: Path) -> None:
    memory, seconds = report.memory, report.seconds
    each = f": {counted(report.steps, 'step')} of {format_seconds(seconds.step_median)}"
    allowed = "no limit" if memory.budget_bytes is None else format_bytes(memory.budget_bytes)
    rows = [] if report.judged is None else _judged(report.judged)
    rows += rows_of_accuracy(report)
    rows += rows_of_others(report)
    rows += [
        (
            "peak memory",
            f"{format_bytes(memory.measured_peak_bytes)} (predicted {format_bytes(memory.predicted_peak_bytes)}, "
            f"allowed {allowed}{_enforced(memory.enforced_by)})",
        ),
        ("time", format_seconds(seconds.total) + (each if report.steps else "")),
        ("trained", _trained(report)),
    ]
    rows += rows_of_scores(report)
    if report.cache is not None:
        rows.append(("cached", str(report.cache)))
    if report.replay is not None:
        rows.append(("replay", what_is_kept(report, output)))
    if report.new_classes:
        rows.append(("new classes", new_ones(report)))
    rows += [
        ("best epoch", f"{_best(report)} ({report.stopped_because})"),
        ("runtime", runtime_text(report.runtime, report.provider)),
    ]
    if report.device_memory is not None:
        used = report.device_memory.used_bytes
        shown = "unknown" if used is None else format_bytes(used)
        rows.append((f"memory of {report.provider.used}", f"{shown}. {report.device_memory.note}"))
    rows += [("changed", f"at step {c.step}: {c.before} → {c.after} ({c.reason})") for c in report.rung_changes]
    if report.failed_steps:
        rows.append(("failed steps", f"{report.failed_steps} of {report.steps}: no picture, or no finite gradient"))
    if report.resumed_at:
        rows.append(("resumed", f"at step {', '.join(map(str, report.resumed_at))}"))
    print_table("", ("adapted", ""), rows)
    if report.stopped_because == "diverged":
        rate = float(str(report.options["learning_rate"] or 0))
        say(
            f"\nTraining diverged at step {report.steps}; the weights of epoch {report.best_epoch} were kept. "
            f"Try a tenth of the learning rate: --learning-rate {rate / 10:g}"
        )
    if report.stopped_because == "placed":
        say(why_nothing_trained(report))
    if report.stopped_because == "forgot":
        say(why_it_stopped(report))
    if report.stopped_because in ("collapsed", "disagreed", "nothing to mend", "nothing to go by"):
        say(why_it_went_back(report))
    before, after = report.accuracy.before, report.accuracy.after
    if before is not None and after is not None and after < before:
        say(
            f"\nNote: accuracy on {report.measured_on} fell. More epochs (--epochs), another learning rate or more "
            "pictures may help; the bundle you started from is unchanged."
        )
    say(f"\nWritten: {output}  (next: edgeplast deploy {output} -o model.onnx)")


def _trained(report: Adaptation) -> str:
    """Say what changed by steps, or without any."""
    if report.steps:
        return (
            f"tier {report.tier}: {counted(len(report.trained), 'component')}, "
            f"batch {report.batch_size} in micro-batches of {report.micro_batch_size}"
        )
    if report.options.get("head") == "fitted":
        return "the head alone, in one pass"
    changed = report.best_epoch > 0 or report.stopped_because == "placed"
    return "the head alone, without a step" if changed else "nothing"


def _best(report: Adaptation) -> str:
    if report.best_epoch == 0 and report.new_classes and report.options.get("head") != "fitted":
        return f"0 of {report.epochs}: new classes placed"
    if report.best_epoch:
        return f"{report.best_epoch} of {report.epochs}"
    if report.options.get("head") != "fitted":
        return "the weights as they came"
    return f"the fitted head, better than {report.epochs} epochs from it" if report.epochs else "the fitted head"


def _judged(judged: Judged) -> list[tuple[str, str]]:
    """Say what can be said of predictions without labels."""
    before, after = judged.before, judged.after
    return [
        ("uncertainty less variety", f"{before.objective:.3f} → {after.objective:.3f} (lower is better)"),
        ("classes predicted", f"spread over {before.variety:.1f} → {after.variety:.1f}"),
        ("views that agree", change(BeforeAfter(before=before.agreement, after=after.agreement), ".1%")),
        ("weights moved by", f"{judged.moved:.1%} of their norm"),
    ]


def _enforced(by: str) -> str:
    return "" if by == "nothing" else f", enforced by the {by}"
