"""Contestants that fail: each is named at once, the others go on, and the exit code tells at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Failures:
    """Takes note of what failed.

    Attributes:
        names: of what failed, in order.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Let a piece of work fail alone; an interruption still ends everything."""
        try:
            yield
        except (Exception, SystemExit) as error:  # whatever a contestant raises is its own affair
            text = str(error).strip() or type(error).__name__
            print(f"failed: {name}: {text[-2000:]}", file=sys.stderr, flush=True)
            self.names.append(name)

    def leave(self) -> None:
        """End with exit code 1 if anything failed."""
        if self.names:
            sys.exit(f"{len(self.names)} failed: {', '.join(dict.fromkeys(self.names))}. The other results stand.")
