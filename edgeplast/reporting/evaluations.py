"""What an evaluation found, as one HTML page: confusion, reliability, each class, and what was most wrong."""

from __future__ import annotations

import html
from pathlib import Path

from edgeplast.evaluation import Evaluation, with_interval
from edgeplast.reporting.pages import WIDTH_INCHES, Page, Section, write_page


def evaluation_report(found: Evaluation, into: Path, png: Path | None = None) -> None:
    """Write the report of an evaluation.

    Args:
        found: of ``edgeplast evaluate``.
        into: the HTML file.
        png: also a picture of the same figures, if given.

    Raises:
        MissingExtraError: matplotlib is not installed.
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
        sections=lambda: _sections(found),
        appendix=_classes(found) + _most_wrong(found),
    )
    write_page(page, into, png)


def _sections(found: Evaluation) -> list[Section]:
    from edgeplast.reporting import evaluation_figures as figures

    sections = []
    if found.confusion:
        height = figures.confusion_inches(found)
        sections.append(
            Section(
                "What is taken for what",
                "A row for what images show, a column for what they were called; darker is a larger share of the row. "
                "Off the diagonal is wrong.",
                [(WIDTH_INCHES, height, lambda figure: figures.confusion(figure, found))],
            )
        )
    if found.reliability:
        sections.append(
            Section(
                "Can its confidence be believed?",
                "Images by the probability of what they were called, and how many of them were named right; a larger "
                "dot has more images. Below the dashed line the model is surer than it should be.",
                [(WIDTH_INCHES, 3.6, lambda figure: figures.reliability(figure, found))],
            )
        )
    return sections


def _classes(found: Evaluation) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{entry.images}</td>{_share(entry.accuracy)}{_share(entry.precision)}</tr>"
        for name, entry in found.per_class.items()
    )
    head = "<tr><th>class</th><td>images</td><td>recall</td><td>precision</td></tr>"
    return (
        "<section><h2>Each class</h2><p>Recall: how many of its images were named right. Precision: how many of those "
        f"that were called so are of it.</p><div class=wide><table class=numbers>{head}{rows}</table></div></section>"
    )


def _share(value: float | None) -> str:
    return f"<td>{'–' if value is None else f'{value:.1%}'}</td>"


def _most_wrong(found: Evaluation) -> str:
    if not found.most_wrong:
        return ""
    rows = "".join(
        f"<tr><th>{html.escape(each.image)}</th><td>{html.escape(each.label)}</td>"
        f"<td>{html.escape(each.predicted)}</td><td>{each.confidence:.1%}</td></tr>"
        for each in found.most_wrong
    )
    head = "<tr><th>image</th><td>shows</td><td>called</td><td>confidence</td></tr>"
    return (
        "<section><h2>Most wrong</h2><p>Named wrong with the highest confidence: look at these first, for the label "
        f"may be what is wrong.</p><div class=wide><table class=numbers>{head}{rows}</table></div></section>"
    )
