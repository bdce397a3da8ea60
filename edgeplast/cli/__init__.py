"""The command line: one file a verb, each a thin layer over :mod:`edgeplast.verbs`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; every error ends in one message and its exit code, never in a traceback."""
    from edgeplast.cli.streams import Streams

    streams = Streams(sys.argv[1:])
    for name in ("SIGTERM", "SIGHUP"):  # so that what was half-written is removed as on Ctrl-C
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _interrupt)
    # numpy's BLAS would map 40 MB for threads that no verb uses: products run in onnxruntime or torch.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from edgeplast.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were imported
        code = 130
    except BrokenPipeError:  # the reader of what a verb prints has seen enough
        code = 0
    sys.exit(streams.finish(code))


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt
