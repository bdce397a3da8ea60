"""What commands print: tables and progress bars for people, JSON for machines, errors for both."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import typer

from edgeplast.cli.bars import LINE, Bars, Lines
from edgeplast.cli.wrapping import columns_of, is_terminal, wrapped
from edgeplast.errors import FallbackWarning
from edgeplast.printable import printable
from edgeplast.progress import Progress, silent

_silent: ContextVar[frozenset[str]] = ContextVar("streams on which nothing is said", default=frozenset())


def keep_quiet(*, result_too: bool) -> None:
    """Say nothing but errors and JSON from now on: on standard error, and on standard output too where asked for."""
    _silent.set(frozenset({"err", "out"} if result_too else {"err"}))


def speak_again() -> None:
    """Take :func:`keep_quiet` back: another command begins."""
    _silent.set(frozenset())


def say(text: str = "", *, err: bool = False, nl: bool = True, hanging: int = 0) -> None:
    """Print lines for people, in which names of strangers cannot reach the terminal as control codes.

    Args:
        text: may hold line breaks; in a terminal its lines are broken at words where they are longer.
        err: on standard error.
        nl: whether a line break follows.
        hanging: columns by which what is left of a broken line is indented.
    """
    if ("err" if err else "out") not in _silent.get():
        _print(text, err=err, nl=nl, hanging=hanging)


def fail(message: str, exit_code: int, as_json: bool) -> int:
    """Print an error on standard error and return its exit code."""
    if as_json:
        print_json("error", {"error": printable(message, keep="\n"), "exit_code": exit_code})
    _print(f"error: {message}", err=True)
    return exit_code


def _print(text: str, *, err: bool = False, nl: bool = True, hanging: int = 0) -> None:
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed before a program that holds this one began
        return
    text = printable(text, keep="\n")
    LINE.erase()
    # Not by click, which writes past the stream that rich puts there to print above its bar.
    text = wrapped(text, columns_of(stream), hanging) if is_terminal(stream) else text
    stream.write(f"{text}\n" if nl else text)
    stream.flush()


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
    print_as_is(json_text(msgspec.json.format(msgspec.json.encode(envelope | fields), indent=2)))


def print_as_is(text: str) -> None:
    """Print what is laid out already, colours in it, or is read by a program: in lines as long as they are."""
    LINE.erase()
    typer.echo(text)


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
    LINE.erase()
    console = Console(markup=False, highlight=False, emoji=False)  # a class may be called [red] or :dog:
    if title:
        console.print(printable(title), style="italic")
    console.print(table)
    if note:
        say(note)


def name_unreadable(count: int, examples: Sequence[tuple[str, str]]) -> None:
    """Say on standard error which pictures were left out, and why."""
    from edgeplast_devices.images.batching import left_out

    for line in left_out(count, examples):
        say(line, err=True)


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
def progress_bar(
    for_program: bool = False, *, doing: str = "", told_otherwise: tuple[str, ...] = ()
) -> Iterator[Progress]:
    """Give a progress callable that shows on standard error what is being done, from its first line to the end.

    In a terminal that is a line at once and, of whatever takes over two seconds, a bar. Elsewhere one line per activity
    says what was done, and now and then one what is being done; where a program reads what is printed, none does.

    Args:
        for_program: the result is printed for a program (``--json``).
        doing: what begins: opening a bundle, say.
        told_otherwise: how activities begin of which the command itself writes a line when they are done.
    """
    in_terminal = is_terminal(sys.stderr)
    if "err" in _silent.get() or (for_program and not in_terminal):
        yield silent
        return
    if not in_terminal:
        yield Lines(say, told_otherwise)
        return
    bars = Bars()
    try:
        if doing:
            bars(doing, 0, 1)
        yield bars
    finally:
        bars.close()
