"""What commands print: tables and progress bars for people, JSON for machines, errors for both."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import typer

from edgeplast.errors import FallbackWarning
from edgeplast.printable import printable
from edgeplast.progress import Bytes, Progress, silent
from edgeplast.units import format_bytes

_PATIENCE_SECONDS = 2.0
_FRAME_SECONDS = 0.1
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 60.0
"""Between lines about what is not done yet, where there is no terminal: a log is read by people too."""


_silent: ContextVar[frozenset[str]] = ContextVar("streams on which nothing is said", default=frozenset())


def keep_quiet(*, result_too: bool) -> None:
    """Say nothing but errors and JSON from now on: on standard error, and on standard output too where asked for."""
    _silent.set(frozenset({"err", "out"} if result_too else {"err"}))


def speak_again() -> None:
    """Take :func:`keep_quiet` back: another command begins."""
    _silent.set(frozenset())


def say(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print lines for people, in which names of strangers cannot reach the terminal as control codes.

    Args:
        text: may hold line breaks.
        err: on standard error.
        nl: whether a line break follows.
    """
    if ("err" if err else "out") not in _silent.get():
        typer.echo(printable(text, keep="\n"), err=err, nl=nl)


def fail(message: str, exit_code: int, as_json: bool) -> int:
    """Print an error on standard error and return its exit code."""
    if as_json:
        print_json("error", {"error": printable(message, keep="\n"), "exit_code": exit_code})
    typer.echo(printable(f"error: {message}", keep="\n"), err=True)
    return exit_code


def print_json(kind: str, content: bytes | Mapping[str, object], output: Path | None = None) -> None:
    """Print JSON for a machine, in the one envelope that all verbs have; in ASCII where a terminal is not in UTF-8.

    Args:
        kind: what it is: ``"adaptation"``.
        content: an object, or its JSON; its ``format_version`` is that of the envelope, else 1.
        output: what was written, as it was given.
    """
    import msgspec

    encoded = content if isinstance(content, bytes) else msgspec.json.encode(content)
    fields: dict[str, object] = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])
    envelope = {"format_version": fields.pop("format_version", 1), "kind": kind}
    if output is not None:
        envelope["output"] = str(output)
    typer.echo(json_text(msgspec.json.format(msgspec.json.encode(envelope | fields), indent=2)))


def json_text(data: bytes) -> str:
    r"""Return JSON as text of the same meaning, with ``\u009b`` for what does not print (JSON escapes only C0).

    Where standard output is not in UTF-8, all that is not ASCII is escaped.
    """
    text = data.decode().rstrip("\n")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    narrow = not encoding.lower().startswith("utf")
    return "".join(
        c if c == "\n" or (c.isprintable() and (c.isascii() or not narrow)) else _json_escape(c) for c in text
    )


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", left: Sequence[str] = ()
) -> None:
    """Print a table for people.

    Args:
        title: above it.
        columns: headings; the first column, those without a heading and those in ``left`` are left-aligned.
        rows: cells, shown as they are.
        note: below it.
        left: headings of further left-aligned columns.
    """
    if "out" in _silent.get():
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        left_aligned = i == 0 or not column or column in left
        # Folded rather than cut: of a long path the end is what tells pictures apart.
        table.add_column(column, justify="left" if left_aligned else "right", overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell, keep="\n") for cell in row))
    console = Console(markup=False, highlight=False, emoji=False)  # a class may be called [red] or :dog:
    if title:
        console.print(printable(title), style="italic")
    console.print(table)
    if note:
        console.print(printable(note, keep="\n"))


def name_unreadable(count: int, examples: Sequence[tuple[str, str]]) -> None:
    """Say on standard error which pictures were left out, and why."""
    for name, reason in examples:
        say(f"left out: {name}: {reason}", err=True)
    rest = count - len(examples)
    if rest > 0:
        say(f"left out: {rest} {'more ' if examples else ''}picture{'' if rest == 1 else 's'}", err=True)


@contextlib.contextmanager
def fallbacks_stated() -> Iterator[None]:
    """Write on standard error, in one line each, what is done in another way than was asked for."""
    otherwise = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, FallbackWarning):
            say(f"note: {message}", err=True)
        else:
            otherwise(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FallbackWarning)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def progress_bar(quiet: bool, told_otherwise: tuple[str, ...] = ()) -> Iterator[Progress]:
    """Give a progress callable that draws a bar on standard error for whatever takes over two seconds.

    Where standard error is no terminal, one line per activity says what was done, and now and then one what is being
    done.

    Args:
        quiet: show nothing.
        told_otherwise: how activities begin of which the command itself writes a line when they are done.
    """
    if quiet or "err" in _silent.get():
        yield silent
        return
    if sys.stderr is None or not sys.stderr.isatty():
        yield _Lines(told_otherwise)
        return
    bars = _Bars()
    try:
        yield bars
    finally:
        bars.close()


class _Lines:
    """A line when an activity that took over two seconds ends, and now and then while nothing else was said."""

    def __init__(self, told_otherwise: tuple[str, ...]) -> None:
        self._told_otherwise = told_otherwise
        self._activity, self._started = "", 0.0
        self._said, self._has_spoken, self._pause = time.monotonic(), False, _PAUSE_SECONDS

    def __call__(self, activity: str, done: int, total: int) -> None:
        now = time.monotonic()
        if activity != self._activity:
            self._activity, self._started, self._pause = activity, now, _PAUSE_SECONDS
        if total and done >= total:
            self._activity = ""
            if now - self._started > _PATIENCE_SECONDS and not activity.startswith(self._told_otherwise):
                self._say(f"{activity}: {_amount(total)} in {now - self._started:.0f} s", now)
        elif now - self._said > self._pause or not (total or self._has_spoken):
            # Of what tells nothing until it is done the first is named at once: a program that begins loads something.
            self._say(f"{activity}: {done:,} of {_amount(total)}" if total else f"{activity} …", now)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)  # a log of hours is read from its end

    def _say(self, text: str, now: float) -> None:
        say(text, err=True)
        self._said, self._has_spoken = now, True


def _amount(count: int) -> str:
    """Write how much was done: bytes with a unit, pieces as a number."""
    return format_bytes(count) if isinstance(count, Bytes) else f"{count:,}"


class _Bars:
    """rich's progress bar, loaded when the first activity has lasted two seconds (it costs 3 MB).

    From then on there is always one, as long as a verb works: what follows a long activity need not be short, and a bar
    that is full stays until something else is told.
    """

    def __init__(self) -> None:
        self._activity, self._started = "", 0.0
        self._drawn, self._told = 0.0, time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, activity: str, done: int, total: int) -> None:
        now = time.monotonic()
        if activity != self._activity:
            was_there = self._bar is not None
            self.close()
            self._activity, self._started = activity, self._told  # nothing was heard since: its first piece took that
            if was_there:
                self._open(total or None)
        self._told = now
        if self._bar is None and not total and not done:  # nothing will be told within two seconds, so it is now
            self._open(None)
        elif self._bar is None and now - self._started > _PATIENCE_SECONDS and done < total:
            self._open(total)
        if self._bar is not None and total:
            drawn = now - self._drawn > _FRAME_SECONDS or done >= total
            self._bar.update(self._task, completed=done, total=total, refresh=drawn)
            self._drawn = now if drawn else self._drawn

    def _open(self, total: int | None) -> None:
        from rich import progress as parts
        from rich.console import Console

        amount = parts.DownloadColumn(binary_units=True) if isinstance(total, Bytes) else parts.MofNCompleteColumn()
        self._bar = parts.Progress(
            parts.TextColumn("{task.description}", markup=False),  # an archive may be called [red].tar
            *((parts.BarColumn(), amount, parts.TimeRemainingColumn()) if total else (parts.TextColumn("…"),)),
            console=Console(stderr=True),
            transient=True,
            # Its own thread would map a stack that no budget has counted.
            auto_refresh=False,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # else a file would miss what is printed
        )
        self._bar.start()
        self._task = self._bar.add_task(printable(self._activity), total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
