"""``edgeplast predict``: classify pictures with a deployed model or a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgeplast.cli.console import json_text, name_unreadable, print_as_is, progress_bar, say
from edgeplast.cli.options import (
    DeviceOption,
    ProviderOption,
    RuntimeOption,
    TrustedOption,
    profile_of,
    provider_of,
    threads_of,
    trusted_of,
)
from edgeplast.cli.wrapping import is_terminal
from edgeplast.errors import UsageError
from edgeplast.printable import printable
from edgeplast.progress import Progress

if TYPE_CHECKING:
    from edgeplast_devices.predicting import Prediction

_NAME_WIDTH = 24


def predict(
    model: Annotated[Path, typer.Argument(help="ONNX file from `edgeplast deploy`, or a bundle.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, folders of pictures, or tars.")],
    top: Annotated[int, typer.Option(help="Classes to show for each picture.", min=1)] = 3,
    threads: Annotated[int | None, typer.Option(help="Of the runtime (default: all usable cores).", min=1)] = None,
    runtime: RuntimeOption = "auto",
    provider: ProviderOption = None,
    device: DeviceOption = None,
    trusted: TrustedOption = None,
    temperature: Annotated[
        bool,
        typer.Option(
            "--temperature/--no-temperature", help="Probabilities at the model's temperature, where it has one."
        ),
    ] = True,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Say 'unknown' where a picture seems to show none of the classes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print probabilities as JSON.")] = False,
) -> None:
    """Classify pictures and print the most likely classes with their probabilities, as soon as each is known."""
    from edgeplast.predicting import predictions
    from edgeplast_devices.images import Unreadable

    unreadable, profile = Unreadable(), profile_of(device)
    write = _JSON() if as_json else _Lines()
    with progress_bar(as_json, doing=f"opening {model}") as told, write:
        for found in predictions(
            model,
            images,
            threads=threads_of(threads, profile),
            runtime=runtime,
            provider=provider_of(provider, profile),
            temperature=temperature,
            unreadable=unreadable,
            trusted=trusted_of(trusted, profile),
            progress=_until_lines(told) if is_terminal(sys.stdout) else told,
        ):
            if unknown and found.known is None:
                raise nothing_tells(model)
            write(found, top, unknown)
    name_unreadable(unreadable.count, unreadable.examples)


def _until_lines(progress: Progress) -> Progress:
    """Return what is told of all before the first picture: lines that appear one by one are a bar themselves."""
    from edgeplast_devices.predicting import PREDICTING

    def told(activity: str, done: int, total: int) -> None:
        if activity != PREDICTING:
            progress(activity, done, total)

    return told


def nothing_tells(model: Path) -> UsageError:
    """Return the error for a model that cannot say that it does not know."""
    return UsageError(
        f"{model} cannot say what it does not know: that is fitted on pictures that are held back. Adapt it with more "
        "pictures or a val folder (edgeplast adapt), and deploy it again; or leave out --unknown."
    )


class _Lines:
    """A line for each picture: its name, and the most likely classes."""

    def __init__(self) -> None:
        self._begun = False

    def __enter__(self) -> None:
        pass

    def __call__(self, found: Prediction, top: int, unknown: bool) -> None:
        if not self._begun:
            say(f"{'picture':<{_NAME_WIDTH}}  most likely")
            self._begun = True
        best = [f"{label} {p:.1%}" for label, p in list(found.probabilities.items())[:top]]
        said = ["unknown", *best] if unknown and found.known is False else best
        say(f"{printable(found.name):<{_NAME_WIDTH}}  {'  '.join(said)}")

    def __exit__(self, *_: object) -> None:
        pass


class _JSON:
    """An array in the envelope, a line for each picture; closed also when an error ends it."""

    def __init__(self) -> None:
        self._begun = self._elements = False

    def __enter__(self) -> None:
        pass

    def __call__(self, found: Prediction, top: int, unknown: bool) -> None:  # noqa: ARG002
        best = dict(list(found.probabilities.items())[:top])
        element = json_text(msgspec.json.encode({"image": found.name, "probabilities": best, "known": found.known}))
        self._begin()
        print_as_is(f"{',' if self._elements else ''}{element}")
        self._elements = True

    def __exit__(self, kind: object, *_: object) -> None:
        if self._begun or kind is None:
            self._begin()
            print_as_is("]}")

    def _begin(self) -> None:
        if not self._begun:
            print_as_is('{"format_version": 1, "kind": "predictions", "predictions": [')
            self._begun = True
