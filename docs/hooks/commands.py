"""The reference of the command line, written from the commands themselves: every verb, its arguments and options."""

from __future__ import annotations

from typing import Any

import typer

from edgeplast.cli.app import app


def reference() -> str:
    """Return all verbs as Markdown, in the order of ``edgeplast --help``."""
    group: Any = typer.main.get_command(app)
    verbs = [(name, group.get_command(None, name)) for name in group.list_commands(None)]
    each = [pair for name, command in verbs for pair in _with_inner(name, command)]
    return "\n".join(_verb(name, command) for name, command in each)


def _with_inner(name: str, command: Any) -> list[tuple[str, Any]]:
    """A verb, or those that it has of its own."""
    inner = getattr(command, "commands", {})
    return [(f"{name} {word}", each) for word, each in inner.items()] or [(name, command)]


def _verb(name: str, command: Any) -> str:
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = " ".join(_argument(p) for p in arguments)
    lines = [f"## {name}", "", " ".join(command.help.split()), "", "```text"]
    lines += [f"edgeplast {name} {words} [options]".replace("  ", " "), "```", ""]
    explained = [p for p in arguments if getattr(p, "help", None)]
    lines += [f"* `{_argument(p)}`: {_text(p.help)}" for p in explained] + ([""] if explained else [])
    lines += ["| option | |", "|---|---|"]
    return "\n".join([*lines, *map(_option, options), ""])


def _argument(parameter: Any) -> str:
    word = f"{parameter.name.upper()}{'…' if parameter.nargs < 0 else ''}"
    return word if parameter.required else f"[{word}]"


def _option(parameter: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in [*sorted(parameter.opts, key=len), *parameter.secondary_opts])
    value = "" if parameter.is_flag else f" *{parameter.type.name}*"
    default = parameter.default
    shown = "" if default in (None, False, ()) or parameter.is_flag or callable(default) else f" Default: `{default}`."
    needed = " **Required.**" if parameter.required else ""
    return f"| {flags}{value} | {_text(parameter.help or '')}{shown}{needed} |"


def _text(text: str) -> str:
    """Keep a help text's own signs: a table's bars, and capitals in angle brackets."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
