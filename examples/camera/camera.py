"""A camera that learns: frames are predicted as they come; on a page in the browser someone says what they show.

    python examples/camera/camera.py bundle/ --into adapted/ --frames photos/ --memory 256MiB

``--frames`` plays a folder of pictures as a stream, over and over; ``--camera 0`` takes a real one, if OpenCV is
installed. The page is served to this machine alone; with ``--host`` it is served to others, who need the token that is
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from pathlib import Path

from frames import camera_frames, folder_frames
from page import serve
from station import Station

import edgeplast
from edgeplast.errors import EdgeplastError


def main() -> int:
    """Open everything, serve until Ctrl-C, close everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="fresh, or adapted before")
    parser.add_argument("--into", type=Path, help="folder for what is learned; by default BUNDLE, if it is adapted")
    parser.add_argument("--memory", help="what the whole process may hold; by default what the bundle was made for")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--frames", type=Path, help="folder of pictures that are played as a stream")
    source.add_argument("--camera", type=int, help="number of a camera, read by OpenCV")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="that one press of the button learns")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; others than loopback get a token")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free")
    arguments = parser.parse_args()
    try:
        with contextlib.ExitStack() as opened:
            frames = folder_frames(arguments.frames) if arguments.frames else camera_frames(arguments.camera)
            opened.callback(frames.close)
            learner = opened.enter_context(
                edgeplast.Learner(arguments.bundle, into=arguments.into, memory=arguments.memory, notice=print)
            )
            station = Station(learner, frames, fps=arguments.fps, seconds=arguments.seconds)
            opened.callback(station.stop)
            threading.Thread(target=station.watch, name="camera", daemon=True).start()
            serve(station, arguments.host, arguments.port)
    except (EdgeplastError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    print("Closed; what was learned is in", learner.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
