"""Run files: TOML with a command's options, as ``--config`` reads them; a report holds the one that repeats its run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeplast.units import exact_bytes

if TYPE_CHECKING:
    from edgeplast.budget import Budget
    from edgeplast_devices.options import TrainingOptions

RUNG = "rung"

Value = str | int | float | bool | Sequence[str] | None


def run_file(verb: str, values: Mapping[str, Value]) -> str:
    """Write options as TOML; those without a value are left out.

    Args:
        verb: the command, whose name the table bears.
        values: by the option's name, with dashes or underscores.
    """
    lines = [f"[{verb.replace(' ', '.')}]"]
    for name, value in values.items():
        if value is not None and value not in ((), []):
            lines.append(f"{name.replace('_', '-')} = {_value(value)}")
    return "\n".join(lines) + "\n"


def of_adaptation(
    bundle: Any, images: Any, into: str | Path, also: Any, budget: Budget | None, options: TrainingOptions, **more: Any
) -> str:
    """Return the run file of an adaptation, from the arguments of :func:`edgeplast.adapt` as they were given.

    What is no path, such as pictures that a program holds, is left out; so are all paths of pictures where the run is
    private.
    """
    memory = None if budget is None else "none" if budget.memory_bytes is None else exact_bytes(budget.memory_bytes)
    others = list(also.values()) if isinstance(also, Mapping) else list(also)
    named = () if options.private else tuple(str(each) for each in others if isinstance(each, str | Path))
    chosen = msgspec.to_builtins(options)
    chosen["add_class"] = chosen.pop("add_classes")  # an option for each
    chosen[RUNG] = chosen.pop(RUNG)  # last: see `pinned`
    values: dict[str, Value] = {
        "bundle": _path(getattr(bundle, "path", bundle)),
        "data": None if options.private else _path(images),
        "output": str(into),
        "also": named,
        "memory": memory,
        **{name: _path(path) for name, path in more.items()},
        **chosen,
    }
    return run_file("adapt", values)


def pinned(adaptation: str, rung: str) -> str:
    """Return an adaptation's run file that takes its steps as the run did, whatever a machine knows by then.

    Args:
        adaptation: its run file; one that names a way to take a step stays as it is.
        rung: that the run began on.
    """
    if not adaptation or any(line.startswith(f"{RUNG} = ") for line in adaptation.splitlines()):
        return adaptation
    return f"{adaptation}{RUNG} = {_value(rung)}\n"


def _path(given: Any) -> str | None:
    return str(given) if isinstance(given, str | Path) else None


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # Texts, numbers and booleans look the same in TOML, but for one control character that JSON does not escape.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
