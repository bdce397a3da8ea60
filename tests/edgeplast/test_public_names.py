"""What ``import edgeplast`` offers: every public name, whatever was imported before it."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import edgeplast

MODULES = {path.stem for path in Path(edgeplast.__file__).parent.iterdir() if not path.name.startswith("_")}


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """Importing ``edgeplast.plan`` would set the attribute ``plan`` of the package to the module."""
    assert not MODULES & set(edgeplast.__all__)


def test_every_public_name_is_there_and_importing_loads_nothing() -> None:
    code = (
        "import sys, edgeplast\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "names = [name for name in edgeplast.__all__ if getattr(edgeplast, name) is None]\n"
        "print(sorted(heavy), names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "[] []", done.stderr


@pytest.mark.parametrize("name", [name for name in edgeplast.__all__ if name != "__version__"])
def test_help_shows_the_signature_of_every_public_name(name: str) -> None:
    """What records read only for types is a name at run time too: ``inspect.signature`` evaluates it."""
    inspect.signature(getattr(edgeplast, name))


TYPED = [name for name in edgeplast.__all__ if name != "__version__"] + [
    "planning.plan",
    "planning.contest",
    "planning.explain",
]


@pytest.mark.parametrize("name", TYPED)
def test_every_argument_of_a_public_name_has_a_type_and_a_name(name: str) -> None:
    """Editors complete what is spelled out; arguments that are handed on as they come are found out by running."""
    module, _, attribute = f"edgeplast.{name}".rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    methods = [each for _, each in inspect.getmembers(found, inspect.isfunction) if not each.__name__.startswith("_")]
    for function in methods if inspect.isclass(found) else [found]:
        for parameter in inspect.signature(function).parameters.values():
            typed = parameter.name in ("self", "cls") or parameter.annotation is not inspect.Parameter.empty
            assert typed, (function, parameter)
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                assert "Any" not in str(parameter.annotation), (function, parameter)
