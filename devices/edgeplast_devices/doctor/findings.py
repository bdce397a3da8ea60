"""What the doctor finds: one line a check, with what to do where something is not right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from edgeplast_devices.doctor.ways import Way

Status = Literal["pass", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check.

    Attributes:
        check: its name, one or two words.
        status: ``pass``; ``warn``: adaptation will work, with a drawback; ``fail``: it will not work;
            ``skip``: it could not be tried, because of another finding or for want of an argument.
        message: what was found.
        advice: what to do; empty where nothing has to be done.
        exit_code: of the command line, if this check fails: 3 input, 4 budget, 5 damaged; else 0.
        figures: what was measured, with units in the names.
        ways: to take a step, where that was looked at.
    """

    check: str
    status: Status
    message: str
    advice: str = ""
    exit_code: int = 0
    figures: dict[str, int | float | str] = {}
    ways: tuple[Way, ...] = ()


def passed(check: str, message: str, **figures: int | float | str) -> Finding:
    """Return a check that found all well."""
    return Finding(check=check, status="pass", message=message, figures=figures)


def warned(check: str, message: str, advice: str, **figures: int | float | str) -> Finding:
    """Return a check that found a drawback."""
    return Finding(check=check, status="warn", message=message, advice=advice, figures=figures)


def failed(check: str, message: str, advice: str, exit_code: int = 3, **figures: int | float | str) -> Finding:
    """Return a check that found what prevents adaptation."""
    return Finding(check=check, status="fail", message=message, advice=advice, exit_code=exit_code, figures=figures)


def skipped(check: str, message: str) -> Finding:
    """Return a check that was not made."""
    return Finding(check=check, status="skip", message=message)


def worst_exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 if nothing failed, else the highest code: damage (5) before budget (4) before the rest (3)."""
    return max((finding.exit_code for finding in findings), default=0)


def split_advice(text: str) -> tuple[str, str]:
    """Cut an error message of edgeplast's into what is wrong and what to do: its last sentence, if it has several."""
    text = text.strip()
    body, separator, last = text.rstrip(".").rpartition(". ")
    return (f"{body}.", last + ("." if text.endswith(".") else "")) if separator else (text, "")
