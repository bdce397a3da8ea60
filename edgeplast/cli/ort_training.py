"""``edgeplast export --format ort-training``: the same plan for ONNX Runtime's own on-device training API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from edgeplast.bundle import MANIFEST, Bundle
from edgeplast.cli.console import print_json, print_table, progress_bar
from edgeplast.cli.options import given_options
from edgeplast.errors import UsageError, one_of
from edgeplast.recomputation import IN_WORDS, RECOMPUTE
from edgeplast.units import format_bytes

if TYPE_CHECKING:
    import typer

    from edgeplast.recomputation import Recompute

FORMATS = ("bundle", "ort-training")
FORMAT_HELP = (
    "bundle, or ort-training: training_model.onnx, eval_model.onnx, optimizer_model.onnx and checkpoint for "
    "onnxruntime.training.api; MODEL may then be a bundle."
)
RECOMPUTE_HELP = "With --format ort-training: none, selective or full recomputation (default: the plan's)."


OF_BUNDLE = "It goes with: edgeplast export bundle/ --format ort-training -o artifacts/"

_OF_A_BUNDLE_TOO = ("model", "output", "form", "recompute", "trusted", "force", "as_json", "config", "quiet")
"""What ``export`` takes besides where it is given a bundle, which says all the rest."""


def check_format(form: str, recompute: str | None, *, signed: bool, measured: bool) -> None:
    """Raise unless the options go together, before a model is made.

    Raises:
        UsageError: they do not.
        MissingExtraError: onnxruntime's training build is not installed and is asked to write.
    """
    if form not in FORMATS:
        raise one_of("--format", form, FORMATS)
    if form == "bundle":
        if recompute is not None:
            raise UsageError(
                "--recompute goes with --format ort-training: a bundle holds a graph of each kind, and the device "
                "takes the fastest that fits its budget."
            )
        return
    if recompute is not None and recompute not in RECOMPUTE:
        raise one_of("--recompute", recompute, RECOMPUTE)
    for option, given in (("--sign", signed), ("--choose measured", measured)):
        if given:
            raise UsageError(
                f"{option} is for bundles. Export one with it, and turn that into training artifacts: edgeplast export "
                "bundle/ --format ort-training -o artifacts/"
            )
    from edgeplast_exporters.ort_training import check_training_build

    check_training_build()


def is_bundle(model: str, form: str) -> bool:
    """Whether what is to be exported is a bundle already."""
    return form == "ort-training" and (Path(model) / MANIFEST).is_file()


def refuse_plan(context: typer.Context, bundle: str) -> None:
    """Raise if anything was given beside a bundle that it says itself.

    Raises:
        UsageError: some was; all of it is named.
    """
    named = {p.name: max(p.opts, key=len) for p in context.command.params if p.name not in _OF_A_BUNDLE_TOO}
    given = given_options(context, named)
    if given:
        options = ", ".join(option for name, option in named.items() if name in given)
        raise UsageError(
            f"{bundle} is a bundle, which has its model, its plan and its classes already: leave out {options}. For "
            "others, export the model again."
        )


@contextmanager
def bundle_before(output: Path, form: str) -> Iterator[Path]:
    """Give the folder that the bundle is written to: the output, or one that goes once it was turned into another."""
    if form == "bundle":
        yield output
        return
    with TemporaryDirectory(prefix=".edgeplast.", dir=output.parent) as folder:  # /tmp may be memory
        yield Path(folder) / "bundle"


def write_artifacts(bundle: Bundle, output: Path, recompute: str | None, *, force: bool, as_json: bool) -> None:
    """Write the artifacts and say what they are."""
    from edgeplast.verbs import export_ort_training

    how = cast("Recompute | None", recompute)
    with progress_bar(as_json, doing=f"writing {output}") as progress:
        made = export_ort_training(bundle, into=output, recompute=how, force=force, progress=progress)
    record = made.record
    if as_json:
        content = {
            "model": record.model,
            "bytes": made.bytes,
            "classes": record.classes,
            "trainable": record.plan.trainable,
            "trainable_parameters": record.plan.trainable_parameters,
            "recompute": record.recompute,
            "files": record.files,
        }
        print_json("training artifacts", content, output)
        return
    total = sum(c.parameters for c in record.plan.components.values())
    size = f"{' × '.join(map(str, record.preprocessing.image_size))}"
    rows = [
        ("model", f"{record.model}, {len(record.classes)} classes"),
        ("trains", f"{record.plan.trainable_parameters:,} of {total:,} parameters"),
        ("activations", IN_WORDS[record.recompute]),
        ("pictures", f"images float32 (b, {len(record.preprocessing.mean)}, {size}), labels int64 (b,)"),
        ("files", ", ".join(record.files)),
        ("size", format_bytes(made.bytes)),
    ]
    notes = ["mean, std and class names: artifacts.json"]
    if record.plan.optimizer == "sgd":
        notes.append("ONNX Runtime's SGD has no momentum; that of edgeplast adapt has 0.9.")
    if bundle.manifest.temperature is not None:
        notes.append("The bundle's temperature is not in these files: divide logits by it yourself.")
    print_table("", ("exported", ""), rows, "\n".join([*notes, f"Written: {output}"]))
