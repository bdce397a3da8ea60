"""What an evaluation found, as one HTML page: confusion, reliability, each class, and what was most wrong."""

from __future__ import annotations

from pathlib import Path

from edgeplast.evaluation import Evaluation, with_interval
from edgeplast.reporting import evaluation_sections
from edgeplast.reporting.pages import Page, write_page


def evaluation_report(found: Evaluation, into: Path, png: Path | None = None) -> None:
    """Write the report of an evaluation.

    Args:
        found: of ``edgeplast evaluate``.
        into: the HTML file.
        png: also a picture of the same figures, if given.

    Raises:
        MissingExtraError: a picture is asked for, and matplotlib is not installed.
    """
    temperature = "none" if found.temperature is None else f"{found.temperature:.2f}"
    facts = [
        ("accuracy", f"{with_interval(found.accuracy, found.accuracy_interval)}, in brackets its 95 % interval"),
        ("images", str(found.images) + (f", and {found.unreadable} unreadable" if found.unreadable else "")),
        ("loss", f"{found.loss:.4f}"),
        ("calibration error", f"{found.expected_calibration_error:.3f} (temperature: {temperature})"),
        ("runtime", found.runtime),
    ]
    page = Page(
        title="Evaluation",
        caption="Evaluation",
        facts=facts,
        notes=(),
        sections=evaluation_sections.sections(found),
        appendix=evaluation_sections.tables(found),
    )
    write_page(page, into, png)
