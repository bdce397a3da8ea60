"""What the verbs accept from Python: an argument of a kind that they know, or an error that says which those are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeplast.errors import UsageError
from edgeplast.files import possible

LABELLED = (
    "the path of a folder CLASS/name.jpg, of a tar or zip archive of one, or of an .npz in the MedMNIST layout; or "
    "what edgeplast_devices.images.open_images returns. Write a data set of another library as such a folder first"
)
SCORES = "a score table, or the file of one as edgeplast score writes it"
PLAN = "a plan, or the file of one as edgeplast plan writes it"
UNLABELLED = (
    "the path of a picture, a folder or a tar archive, a PIL image, a numpy array of uint8 (height, width, 3), or a "
    "list of paths or of pictures"
)
BUNDLE = "a bundle's folder, or what edgeplast.Bundle.open returns"
ADAPTER = "the folder or file of an adapter, as edgeplast detach writes it"
BUDGET = "an edgeplast.Budget, such as edgeplast.Budget(memory_bytes=256 << 20)"


def path_of(given: Any, name: str, allowed: str) -> Path:
    """Return a path.

    Args:
        given: by the caller.
        name: of the argument.
        allowed: what it may be, for the message.

    Raises:
        UsageError: it is no path, or no file can have that name.
    """
    if isinstance(given, str | Path):
        return possible(given)
    raise wrong_kind(given, name, allowed)


def check_kind(given: Any, kind: type | tuple[type, ...], name: str, allowed: str) -> None:
    """Raise unless an argument is of a kind, or None.

    Raises:
        UsageError: it is of another.
    """
    if given is not None and not isinstance(given, kind):
        raise wrong_kind(given, name, allowed)


def wrong_kind(given: Any, name: str, allowed: str) -> UsageError:
    """Return the error for an argument of a kind that a verb does not know."""
    kind = type(given)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}'s "
    return UsageError(f"{name} is of the kind {home}{kind.__name__}. Allowed: {allowed}.")
