"""Ending a run of a graph from another thread: the watcher of a budget does, and someone who asks twice to stop."""

from __future__ import annotations

import threading
from typing import Any


class Stop:
    """Whether the run in progress is to end, and why.

    Args:
        how: the runtime's options of a run, which looks at them between two nodes.

    Attributes:
        how: the same.
    """

    def __init__(self, how: Any) -> None:
        self.how, self._reason, self._lock = how, "", threading.Lock()

    def ask(self, reason: str) -> None:
        """End the run in progress, or the next one where there is none."""
        with self._lock:  # reason and order together, or a run would end without a reason
            self._reason, self.how.terminate = reason, True

    def taken(self) -> str:
        """Return why a run was ended, once, and let the next one go through; empty where nobody asked."""
        with self._lock:
            reason, self._reason, self.how.terminate = self._reason, "", False
        return reason
