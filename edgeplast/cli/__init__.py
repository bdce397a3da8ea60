"""The command line: one file a verb, each a thin layer over :mod:`edgeplast.verbs`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; every error ends in one message and its exit code, never in a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that what was half-written is removed as on Ctrl-C
    # numpy's BLAS would map 40 MB for threads that no verb uses: products run in onnxruntime or torch.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from edgeplast.cli.app import run

        code = run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:  # while modules were imported
        code = 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt
