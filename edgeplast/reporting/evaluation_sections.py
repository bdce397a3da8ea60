"""What an evaluation found, as parts of a page: confusion, reliability, each class, and what was most wrong.

Of the page of ``evaluate``, and of that of ``adapt``, whose report holds what was measured with the weights it kept.
"""

from __future__ import annotations

import html

from edgeplast.evaluation import Evaluation
from edgeplast.reporting.charts import Chart, Line
from edgeplast.reporting.colours import ACCENT, QUIET, shade
from edgeplast.reporting.pages import WIDTH_INCHES, Drawing, Section, chart_section


def sections(found: Evaluation) -> list[Section]:
    """Return what is drawn: the confusion matrix where classes are few enough to be counted, and the reliability."""
    parts = []
    if found.confusion:
        parts.append(
            Section(
                "What is taken for what",
                "A row for what images show, a column for what they were called; darker is a larger share of the row. "
                "Off the diagonal is wrong.",
                _confusion_table(found),
                [_confusion_drawing(found)],
            )
        )
    if found.reliability:
        parts.append(
            chart_section(
                "Can its confidence be believed?",
                "Images by the probability of what they were called, and how many of them were named right; a larger "
                "dot has more images. Below the dashed line the model is surer than it should be.",
                reliability(found),
                3.6,
            )
        )
    return parts


def tables(found: Evaluation) -> str:
    """Return what is said in tables: each class, and the pictures that were most wrong."""
    return _classes(found) + _most_wrong(found)


def reliability(found: Evaluation) -> Chart:
    """Show accuracy against confidence, a dot a bin as large as its share of images; on the diagonal both agree."""
    across = [100 * each.confidence for each in found.reliability]
    up = [100 * each.accuracy for each in found.reliability]
    sizes = [8 + 22 * (each.images / max(found.images, 1)) ** 0.5 for each in found.reliability]
    return Chart(
        x_label="mean confidence, %",
        y_label="named right, %",
        lines=[
            Line("both agree", [0, 100], [0, 100], colour=QUIET, width=0.8, is_dashed=True),
            Line("images of a bin", across, up, colour=ACCENT, width=0, sizes=sizes),
        ],
        x_range=(0, 103),
        y_range=(-3, 106),
        pixels=320,
    )


def confusion_inches(found: Evaluation) -> float:
    """Height that the confusion matrix wants in a picture."""
    return min(9.0, 1.6 + 0.34 * len(found.confusion))


def _confusion_drawing(found: Evaluation) -> Drawing:
    def draw(figure: object) -> None:
        from edgeplast.reporting.evaluation_figures import confusion

        confusion(figure, found)  # type: ignore[arg-type]

    return WIDTH_INCHES, confusion_inches(found), draw


def _confusion_table(found: Evaluation) -> str:
    names = list(found.per_class)
    heads = "".join(f"<td><span>{html.escape(name)}</span></td>" for name in names)
    rows = ""
    for name, counts in zip(names, found.confusion, strict=True):
        total = max(sum(counts), 1)
        cells = "".join(
            f"<td style='background:{shade(count / total)};color:{'#fff' if count / total > 0.55 else 'inherit'}'>"
            f"{count or ''}</td>"
            for count in counts
        )
        rows += f"<tr><th>{html.escape(name)}</th>{cells}</tr>"
    return f"<div class=wide><table class=confusion><tr><th>shows ↓ called →</th>{heads}</tr>{rows}</table></div>"


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
