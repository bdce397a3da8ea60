"""Options of every verb: ``--config run.toml``, which holds the others, and ``--quiet``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from edgeplast.cli.console import keep_quiet
from edgeplast.errors import UsageError
from edgeplast.stamps import shortened

MOST_CONFIG_BYTES = 1 << 20

_WRITE = ("compare", "prune", "export", "adapt", "detach", "deploy", "report", "keygen", "sign", "roll-back", "fleet")
"""Verbs that leave something on disk: what they print is about it. Of the others it is the result."""


def add_to(command: Any) -> Any:
    """Give a verb the options that all have; ``--help`` stays last."""
    command.params += [
        typer.core.TyperOption(
            param_decls=["--config"],
            type=str,
            metavar="PATH",
            help="A TOML file with options and arguments of this command, by the same names; what is typed goes first.",
            callback=_configure,
            expose_value=False,
            is_eager=True,
        ),
        typer.core.TyperOption(
            param_decls=["--quiet", "-q"],
            is_flag=True,
            help="Print no progress, notes or hints: the result, if it is printed, and errors.",
            callback=_hush,
            expose_value=False,
            is_eager=True,
        ),
    ]
    return command


def _hush(context: Any, parameter: Any, value: Any) -> None:
    del parameter
    if value:
        keep_quiet(result_too=_words(context)[0] in _WRITE)


def _configure(context: Any, parameter: Any, value: Any) -> None:
    """Let the file's values stand where nothing is typed."""
    del parameter
    if value is not None:
        context.default_map = read_config(Path(value), " ".join(_words(context)), context.command)


def _words(context: Any) -> list[str]:
    """Return by which words a command is called: ``["adapt"]``, ``["fleet", "init"]``."""
    words = context.command_path.split()
    return words[1:] if words[0] == "edgeplast" else words


def read_config(path: Path, verb: str, command: Any) -> dict[str, Any]:
    """Read a run file for a verb.

    Args:
        path: of a TOML file: keys are names of options without dashes before them (``learning-rate`` or
            ``learning_rate``) and of arguments; a table ``[adapt]`` (``[fleet.init]``) holds those of one verb, and
            those of others are passed over.
        verb: which one, in one word or two.
        command: of that verb.

    Returns:
        values by the parameter's own name.

    Raises:
        UsageError: it cannot be read, or a key is no option of the verb, or a value not what it takes.
    """
    content = _toml(path)
    from edgeplast.cli.app import VERBS

    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    plain = {key: value for key, value in content.items() if key not in tables}
    for key in tables:
        if key not in VERBS:
            shown = verb.replace(" ", ".")
            raise UsageError(f"{path}: [{key}] is no command. Tables are named as commands: [{shown}].")
    own: Any = tables
    for word in verb.split():
        own = own.get(word, {}) if isinstance(own, dict) else {}
    given = plain | (own if isinstance(own, dict) else {})
    known = {name: p for p in command.params if p.name not in ("config", "quiet", "help") for name in _names(p)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        parameter = known.get(key.replace("_", "-"))
        if parameter is None:
            near = get_close_matches(key.replace("_", "-"), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{path}: {key!r} is no option of edgeplast {verb}.{hint} See: edgeplast {verb} --help")
        if parameter.name in values:
            raise UsageError(f"{path}: {key!r} is given twice, by two of its names.")
        values[parameter.name] = _checked(path, key, value, parameter)
    return values


def _names(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [parameter.name.replace("_", "-")]
    return [name.lstrip("-") for name in parameter.opts if name.startswith("--")]


def _checked(path: Path, key: str, value: Any, parameter: Any) -> Any:
    """Return a value as the parameter takes it, or raise."""
    several = getattr(parameter, "multiple", False) or parameter.nargs != 1
    flag = getattr(parameter, "is_flag", False)
    if several:
        value = value if isinstance(value, list) else [value]
    for each in value if several else [value]:
        if isinstance(each, bool) != bool(flag) or not isinstance(each, bool | int | float | str):
            wanted = "true or false" if flag else "a list of texts or numbers" if several else "one text or number"
            raise UsageError(f"{path}: {key} = {each!r} is not possible; it takes {wanted}.")
    return value


def _toml(path: Path) -> Mapping[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with path.open("rb") as file:
            data = file.read(MOST_CONFIG_BYTES + 1)
        if len(data) > MOST_CONFIG_BYTES:
            raise UsageError(f"{shortened(path)} is larger than 1 MiB, which no run file is.")
        return tomllib.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:300].rstrip(".")
        raise UsageError(
            f"Cannot read the run file {shortened(path)}: {reason}. It is TOML, a line an option: epochs = 4"
        ) from error
