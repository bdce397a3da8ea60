"""``edgeplast report``: scores, or what an adaptation did, as one HTML page that opens without network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeplast.cli.console import print_json, progress_bar, say
from edgeplast.comparison import COMPARISON, Comparison
from edgeplast.errors import UsageError
from edgeplast.outputs import claim
from edgeplast.scores import ScoreTable

_MOST_BYTES = 16 << 20
"""Larger is no evaluation."""


def report(
    source: Annotated[
        Path,
        typer.Argument(
            help="Scores from `edgeplast score`, what `edgeplast evaluate --json` printed, or a folder of "
            "`edgeplast adapt` or `edgeplast compare`."
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file to write.")] = None,
    png: Annotated[Path | None, typer.Option(help="Also a picture of the same figures.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Log folder for TensorBoard to write an adaptation's scalars into.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw scores, an adaptation (what trained, memory, loss, accuracy, pace), an evaluation or a comparison."""
    if output is None and (png is not None or tensorboard is None):
        raise UsageError("Give --output with the HTML file to write (--png is a picture beside it).")
    if tensorboard is not None and not source.is_dir():
        raise UsageError(f"--tensorboard takes the scalars of an adaptation, and {source} is no folder of one.")
    pages = [path for path in (output, png) if path is not None]
    for path in pages:
        claim(path, force=force)
    written = [str(path) for path in pages]
    with progress_bar(as_json, doing=f"drawing {source}"):
        if output is not None:
            _draw(source, output, png)
        if tensorboard is not None:
            from edgeplast.reporting.tensorboards import write_tensorboard

            write_tensorboard(source, tensorboard)
            written.append(str(tensorboard))
    if as_json:
        print_json("report", {"written": written}, output)
    else:
        say(f"Written: {', '.join(written)}")


def _draw(source: Path, output: Path, png: Path | None) -> None:
    if (source / COMPARISON).is_file():
        from edgeplast.reporting.comparisons import comparison_report

        comparison_report(Comparison.read(source / COMPARISON), output, png)
    elif source.is_dir():
        from edgeplast.reporting.adaptations import adaptation_report

        adaptation_report(source, output, png)
    elif _is_evaluation(source):
        from edgeplast.evaluation import Evaluation
        from edgeplast.reporting.evaluations import evaluation_report

        evaluation_report(Evaluation.read(source), output, png)
    else:
        from edgeplast.planning import memory_alone
        from edgeplast.reporting.scores import score_report

        table = ScoreTable.read(source)
        score_report(table, output, png, memory=memory_alone(table))


def _is_evaluation(source: Path) -> bool:
    """Whether a file is what ``edgeplast evaluate --json`` prints; what cannot be read is left to whoever reads it."""
    import msgspec

    try:
        with source.open("rb") as file:
            found = msgspec.json.decode(file.read(_MOST_BYTES), type=dict[str, msgspec.Raw])
    except (OSError, ValueError, msgspec.MsgspecError):
        return False
    return "expected_calibration_error" in found and "per_class" in found
