"""The one tree of errors: what went wrong, what was given, what is allowed, what to do.

Each class carries the exit code of the command line, so that a script on a device can tell
a typing mistake (2) from bad pictures (3), a budget that cannot be met (4) and a damaged file (5).
"""

from __future__ import annotations

from edgeplast.printable import printable


class EdgeplastError(Exception):
    """Base of every error that edgeplast raises on purpose; its message is meant for the user.

    Messages quote names of files and classes: what does not print in them is escaped here, once for all.
    """

    exit_code = 3

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message, keep="\n"))


class UsageError(EdgeplastError):
    """An option or argument that cannot mean anything (exit code 2)."""

    exit_code = 2


class InputError(EdgeplastError):
    """A model, checkpoint, image set or folder that cannot be used (exit code 3)."""

    exit_code = 3


class DiskFullError(InputError):
    """No space was left to write something (exit code 3); what was there before is as it was."""


class DivergedError(InputError):
    """Training diverged before there was anything to keep (exit code 3); going on would do it again."""


class MissingExtraError(InputError):
    """A package that this verb needs is not installed (exit code 3); the message names the command to type."""


class BudgetError(EdgeplastError):
    """The memory, time or disk budget cannot be met (exit code 4); the message names one that can."""

    exit_code = 4


class DamagedError(EdgeplastError):
    """A bundle or checkpoint that is not what its manifest says (exit code 5)."""

    exit_code = 5


class UntrustedError(DamagedError):
    """A bundle or model that no trusted key signed, or whose signature no longer holds (exit code 5)."""


class InterruptedRunError(EdgeplastError):
    """The run was interrupted after its state was saved; it can be resumed (exit code 130)."""

    exit_code = 130


class FallbackWarning(UserWarning):
    """Something is done in another way than was asked for; the message says which and why."""


def one_of(what: str, given: str, allowed: list[str] | tuple[str, ...]) -> UsageError:
    """Return the error for a word that is not in a closed list, with the nearest one suggested.

    Args:
        what: what the word names, e.g. ``"score method"``.
        given: the word as typed.
        allowed: every word that would have been accepted.
    """
    from difflib import get_close_matches

    near = get_close_matches(given, allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"Unknown {what} {given!r}.{hint} Known: {', '.join(allowed)}.")


def missing_drawing(error: ModuleNotFoundError, need: str) -> MissingExtraError:
    """Return the error for the package that draws pictures, which alone is enough on a device.

    Args:
        error: of the import.
        need: who needs it: ``"plots need it"``.
    """
    return MissingExtraError(
        f"{error.name} is not installed; {need}. Install it: pip install matplotlib (on a workstation "
        "edgeplast[offline] brings it). Pages need none: edgeplast report … -o report.html"
    )


def missing_offline(error: ModuleNotFoundError, need: str) -> MissingExtraError:
    """Return the error for a package of the workstation that is not there.

    Args:
        error: of the import.
        need: who needs it: ``"pruning needs it"``.
    """
    return MissingExtraError(
        f"{error.name} is not installed; {need}. Install the workstation's packages: pip install 'edgeplast[offline]'"
    )
