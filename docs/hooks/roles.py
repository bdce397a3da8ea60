"""Docstrings name other things in Sphinx's form, :func:`edgeplast.score`; on a page that is a name in code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Takes the roles off, as each thing is read."""

    def on_object(self, *, obj: griffe.Object, **more: Any) -> None:  # noqa: ARG002
        """Change the docstring of one thing.

        Args:
            obj: module, class, function or attribute.
            **more: of no interest here.
        """
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
