"""The app: which verb lives in which file, and what happens to errors."""

from __future__ import annotations

import errno
import os
from importlib import import_module
from typing import Any, get_type_hints

import typer

from edgeplast.cli.console import fail, fallbacks_stated, say, speak_again
from edgeplast.cli.everywhere import add_to
from edgeplast.errors import EdgeplastError, UsageError, one_of
from edgeplast.files import possible
from edgeplast.outputs import holding_outputs

VERBS = {
    "score": "how plastic is each component of a model",
    "plan": "what to train under a budget",
    "compare": "what learns best from your pictures, by trying",
    "prune": "a smaller model, by what its heads and hidden units are worth",
    "export": "model to bundle: score, plan, check, write",
    "report": "scores, or an adaptation, as one HTML page",
    "adapt": "fine-tune a bundle on this device's images",
    "evaluate": "accuracy of a bundle on labelled images",
    "history": "versions of an adapted bundle",
    "roll-back": "an adapted bundle becomes one of its versions again",
    "forget": "delete pictures that an adapted bundle keeps",
    "detach": "what an adapted bundle has learned, as a small file for its base",
    "deploy": "adapted bundle to one ONNX file",
    "predict": "classify pictures with a deployed model",
    "keygen": "a key that signs bundles, and its public half",
    "sign": "sign a bundle or a deployed model",
    "verify": "who signed it, whether anything was changed, and what it was made from",
    "inspect": "what a bundle or a pruned model holds",
    "fleet": "many devices, one model: federated on Flower",
    "devices": "devices whose defaults are known, and which this machine is",
    "doctor": "whether adaptation works here, tried before it starts",
    "glossary": "what a word means that is printed here",
}

# typer carried click inside from 0.2x on; its errors are reached through typer whichever way they come.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

_INTERRUPTED = 130  # also what typer makes of Ctrl-C

_INTRODUCTION = """edgeplast lets a pretrained vision model keep learning on the device it runs on.

  On a workstation (pip install 'edgeplast[offline,train]'):
    edgeplast export vit_tiny_patch16_224 --checkpoint weights.safetensors \\
        --data train/ --memory 256MiB -o bundle/
  On the device (pip install 'edgeplast[stock]'), no torch:
    edgeplast adapt bundle/ --data images/ --memory 256MiB -o adapted/
    edgeplast evaluate adapted/ --data test/
    edgeplast deploy adapted/ -o model.onnx
    edgeplast predict model.onnx photo.jpg
  Every verb has --help, --json, --quiet and --config run.toml. Also: score,
  plan, compare, prune, report, history, roll-back, forget, detach, keygen,
  sign, verify, inspect, fleet, devices, doctor.
  What a word means: edgeplast glossary tier"""


class _Verb(typer.core.TyperCommand):
    """One verb."""

    def format_arguments(self, ctx: Any, formatter: Any) -> None:
        """Write nothing: click 8.5 would list the arguments here, and typer lists them with the options."""


class _Verbs(typer.core.TyperGroup):
    """Loads the file of a verb when it is called, so that no verb pays for another's imports."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in VERBS:
            raise one_of("command", cmd_name, tuple(VERBS))
        name = cmd_name.replace("-", "_")
        module = import_module(f"edgeplast.cli.{name}")
        if inner := getattr(module, "VERBS", None):
            return _inner(module, cmd_name, inner)
        return _verb(module, cmd_name, VERBS[cmd_name])


class _Inner(typer.core.TyperGroup):
    """A verb that has verbs of its own."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            raise one_of(f"command of {self.name}", cmd_name, tuple(self.commands))
        return super().get_command(ctx, cmd_name)


def _inner(module: Any, name: str, verbs: dict[str, str]) -> Any:
    """Return a verb with verbs of its own, each a function of its name in the same file."""
    short = VERBS[name]
    return _Inner(
        name=name,
        help=f"{short[0].upper()}{short[1:]}.",
        short_help=short,
        commands={word: _verb(module, word, said) for word, said in verbs.items()},
        no_args_is_help=False,
        rich_markup_mode=None,
    )


def _verb(module: Any, name: str, short_help: str) -> Any:
    """Return the command of a function."""
    function = getattr(module, name.replace("-", "_"))
    verb = typer.Typer(add_completion=False, rich_markup_mode=None)
    verb.command(name, cls=_Verb, short_help=short_help)(function)
    return add_to(_explained(typer.main.get_command(verb), function))


def _explained(command: Any, function: Any) -> Any:
    """Give arguments their help back: an Argument of click 8.5 has one of its own, which wipes out typer 0.24's."""
    hints = get_type_hints(function, include_extras=True)
    for parameter in command.params:
        for note in getattr(hints.get(parameter.name), "__metadata__", ()):
            if isinstance(note, typer.models.ArgumentInfo):
                parameter.help = note.help
    return command


_WIDEST_HELP = 200
"""Columns of help; click stops at 80 where nobody says otherwise."""

app = typer.Typer(
    cls=_Verbs,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"max_content_width": _WIDEST_HELP},
)


@app.callback()
def introduction(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the versions, of the runtimes too, and leave."),
) -> None:
    """Let a pretrained vision model keep learning on the device where it runs."""
    if version:
        from edgeplast import __version__

        say(f"edgeplast {__version__}{_runtimes()}")
    elif context.invoked_subcommand is None:
        say(_INTRODUCTION)


def _runtimes() -> str:
    """What of the packages that matter is installed, in brackets; read from metadata, nothing is imported."""
    from importlib.metadata import version
    from platform import python_version

    from edgeplast_devices.providers import installed_builds, is_installed

    packages = [*installed_builds(), *filter(is_installed, ("torch", "timm"))]
    found = [f"Python {python_version()}", *(f"{package} {version(package)}" for package in packages)]
    return f" ({', '.join(found)})"


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code (design: 0, 2, 3, 4, 5, 130)."""
    as_json = "--json" in arguments
    speak_again()
    try:
        with fallbacks_stated(), holding_outputs():
            result = app(arguments, standalone_mode=False, prog_name="edgeplast")
        if result == _INTERRUPTED:
            return _interrupted(as_json)
        return result if isinstance(result, int) else 0
    except EdgeplastError as error:
        return fail(str(error), error.exit_code, as_json)
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        hint = f" See: {context.command_path} --help" if context else ""
        return fail(error.format_message() + hint, 2, as_json)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)
    except SystemExit:  # how typer and rich leave when the reader of a pipe has seen enough
        return 0
    except MemoryError as error:
        reason = str(error) or "no more could be had"
        return fail(f"Memory ran out ({reason}). Allow more, or close programs.", 4, as_json)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", 0) == errno.ENAMETOOLONG or "null byte" in str(error):
            try:
                _check_names(arguments)  # such a name fails wherever it is first looked at
            except UsageError as usage:
                return fail(str(usage), usage.exit_code, as_json)
        return _unexpected(error, as_json)
    except Exception as error:  # the last line of defence: a message that can be reported, never a traceback
        return _unexpected(error, as_json)


def _unexpected(error: Exception, as_json: bool) -> int:
    if os.environ.get("EDGEPLAST_DEBUG"):
        raise error
    kind = type(error).__name__
    return fail(f"Unexpected {kind}: {error}. Set EDGEPLAST_DEBUG=1 to see where it came from.", 3, as_json)


def _check_names(arguments: list[str]) -> None:
    """Raise if an argument is a name that no file can have.

    Raises:
        UsageError: one is too long, or has a zero byte in it.
    """
    for argument in arguments:
        possible(argument)


def _interrupted(as_json: bool) -> int:
    return fail("Interrupted; nothing was left half-written.", _INTERRUPTED, as_json)
