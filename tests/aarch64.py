"""Shows that the device side works on 64-bit ARM, without a machine that has it: ``sudo python3 tests/aarch64.py``.

A small Debian for arm64 is unpacked into ``build/aarch64/root`` and run by emulation (``qemu-user-static``). In it
the package's own wheel and PyPI's aarch64 wheels are installed, as on a Raspberry Pi or a Jetson, and a few of the
quickstart's pictures go the whole way: doctor, adapt, evaluate, deploy, predict. The losses must be those of this
machine with the same version of onnxruntime. Ten minutes the first time, five after that.

Needs root, Debian's or Ubuntu's ``qemu-user-static`` and ``debootstrap``, Debian's and Python's package indexes, and
a kernel with binfmt_misc. Outside the default test run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from run import DEVICE, ROOT, WORKSTATION, environment  # type: ignore[import-not-found]

WORK = ROOT / "build" / "aarch64"
INSIDE = WORK / "root"
EXAMPLE = ROOT / "examples" / "quickstart"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
CLASSES = "zero,one,two,three,four,five,six,seven,eight,nine"
ADAPT = ("--memory", "256MiB", "--epochs", "1", "--augment", "none", "--threads", "1", "--json")
TRAIN_IMAGES, TEST_IMAGES = 8, 3
TOLERANCE = 1e-4


def main() -> int:
    """Prepare on this machine, run inside, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="bookworm", help="Debian's release (bookworm has Python 3.11)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    arguments = parser.parse_args()
    check_tools()
    stock = make_example()
    make_root(arguments.suite, arguments.mirror)
    install()
    say(f"Inside: {inside('uname', '-m', quiet=True).strip()}, {inside('python', '-VV', quiet=True).strip()}")
    inside("edgeplast", "doctor", "/example/bundle", "--memory", "256MiB")
    theirs = json.loads(
        inside("edgeplast", "adapt", "/example/bundle", "--data", "/example/images", *ADAPT, "-o", "/example/adapted")
    )
    inside("edgeplast", "evaluate", "/example/adapted", "--data", "/example/images")
    inside("edgeplast", "deploy", "/example/adapted", "-o", "/example/model.onnx")
    inside("edgeplast", "predict", "/example/model.onnx", "/example/images/test/seven")
    ours = json.loads(
        shown(
            [str(stock), "-m", "edgeplast", "adapt", str(WORK / "bundle"), "--data", str(WORK / "images"), *ADAPT,
             "-o", str(WORK / "adapted"), "--force"]
        )
    )  # fmt: skip
    return compare(ours, theirs)


def check_tools() -> None:
    """Stop with the command to type where something is missing."""
    emulated = platform.machine() not in ("aarch64", "arm64")
    missing = [] if shutil.which("debootstrap") else ["debootstrap"]
    if emulated and not shutil.which("qemu-aarch64-static"):
        missing.append("qemu-user-static")
    if missing:
        sys.exit(f"Install first: apt-get install {' '.join(missing)}")
    if os.geteuid():
        sys.exit("This unpacks a system and enters it (debootstrap, chroot): run it as root.")
    if emulated and not (BINFMT / "qemu-aarch64").exists():
        if not (BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=False)
        subprocess.run(["update-binfmts", "--enable", "qemu-aarch64"], check=False)
        if not (BINFMT / "qemu-aarch64").exists():
            sys.exit("The kernel does not hand arm64 programs to qemu (binfmt_misc is missing or may not be changed).")


def make_example() -> Path:
    """Export the quickstart's bundle and set aside a few of its pictures; return a Python with stock onnxruntime."""
    tests: Path = environment(*WORKSTATION)
    stock: Path = environment(*DEVICE)
    if not (WORK / "bundle").exists():
        shown([str(tests), str(EXAMPLE / "digits.py"), "sensor", str(WORK / "sensor")])
        shown(
            [str(tests), "-m", "edgeplast", "export", "vit_tiny_patch16_224", "--keep-head", "--classes", CLASSES,
             "--model-kwargs", f"@{EXAMPLE / 'model_kwargs.json'}",
             "--checkpoint", str(EXAMPLE / "digits_vit.safetensors"),
             "--data", str(WORK / "sensor"), "--memory", "128MiB", "-o", str(WORK / "bundle")]
        )  # fmt: skip
    shutil.rmtree(WORK / "images", ignore_errors=True)
    for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        for folder in sorted((WORK / "sensor" / split).iterdir()):
            (WORK / "images" / split / folder.name).mkdir(parents=True)
            for picture in sorted(folder.iterdir())[:count]:
                shutil.copy(picture, WORK / "images" / split / folder.name)
    return stock


def make_root(suite: str, mirror: str) -> None:
    """Unpack Debian for arm64, unless it is there."""
    if (INSIDE / "unpacked").exists():
        return
    shutil.rmtree(INSIDE, ignore_errors=True)
    shown(
        [
            "debootstrap",
            "--arch=arm64",
            "--variant=minbase",
            "--include=python3,python3-venv",
            suite,
            str(INSIDE),
            mirror,
        ]
    )
    inside("/usr/bin/python3", "-m", "venv", "/venv")
    (INSIDE / "unpacked").touch()


def install() -> None:
    """Build the package's wheel, fetch what it needs for aarch64, and install both inside from these files alone."""
    wheels = INSIDE / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    version = inside("python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])", quiet=True).strip()
    shown([sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(wheels), str(ROOT)])
    own = next(wheels.glob("edgeplast-*.whl"))
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("_2_28", "_2_27", "_2_26", "_2_17", "2014")]
    shown(
        [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", "--implementation=cp", *platforms,
         f"--python-version={version}", "-d", str(wheels), f"{own}[stock]"]
    )  # fmt: skip
    inside(
        "pip", "install", "-qq", "--no-index", "--find-links=/wheels", "--force-reinstall", f"/wheels/{own.name}[stock]"
    )
    shutil.rmtree(INSIDE / "example", ignore_errors=True)
    (INSIDE / "example").mkdir()
    for name in ("bundle", "images"):
        shutil.copytree(WORK / name, INSIDE / "example" / name)


def inside(*words: str, quiet: bool = False) -> str:
    """Run a command in the arm64 system and return its standard output.

    It sees /proc but not /sys, which describes this machine's processors: onnxruntime's library for telling them
    (cpuinfo) takes them for ARM's and crashes. Without, it warns and goes on.
    """
    enter = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    clean = ["env", "-i", "PATH=/venv/bin:/usr/bin:/bin", "HOME=/root", "LANG=C.UTF-8", "COLUMNS=100"]
    return shown(["unshare", "--mount", "sh", "-c", enter, str(INSIDE), *clean, *words], words, quiet=quiet)


def shown(command: list[str], words: tuple[str, ...] = (), *, quiet: bool = False) -> str:
    """Run a command and show it with what it prints; stop where it fails."""
    if not quiet:
        say("$ " + " ".join(words or command))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if not quiet and not done.stdout.startswith("{"):
        print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"That ended with {done.returncode}.")
    return done.stdout


def compare(ours: dict, theirs: dict) -> int:
    """Hold the run inside against the one on this machine."""
    gap = max(abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True))
    for name, report in ((platform.machine(), ours), ("aarch64", theirs)):
        loss, accuracy = report["losses"], report["accuracy"]
        print(
            f"{name:8} {report['runtime']}: {report['steps']} steps, loss {loss[0]:.4f} → {loss[-1]:.4f}, "
            f"accuracy {accuracy['before']:.1%} → {accuracy['after']:.1%}, "
            f"peak {report['memory']['measured_peak_bytes'] / 2**20:.0f} MiB, {report['seconds']['total']:.1f} s"
        )
    good = gap <= TOLERANCE and theirs["losses"][-1] < theirs["losses"][0]
    print(f"largest difference of a loss {gap:.1e} (allowed {TOLERANCE:g}): {'passed' if good else 'FAILED'}")
    return 0 if good else 1


def say(text: str) -> None:
    """Print one line above what follows."""
    print(f"\n── {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
