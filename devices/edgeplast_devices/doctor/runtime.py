"""Checks of the runtime: it is tried in a process of its own, and what came back is put into words."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys

import msgspec

from edgeplast.units import format_bytes, format_seconds
from edgeplast_devices.doctor.findings import Finding, failed, passed, skipped, split_advice, warned
from edgeplast_devices.doctor.trial import Outcome, Request
from edgeplast_devices.providers import word_for

STOCK_COMPARED = "is newer, as fast or faster, and takes 7 MiB more memory"
"""Stock onnxruntime 1.32 against onnxruntime-training 1.19.2 (devices/README.md, "Which build")."""

_TIMEOUT_SECONDS = 600.0

_SIGNALS = {
    "SIGILL": "its wheel is for a processor with instructions that this one lacks",
    "SIGSEGV": "its parts do not fit together, or two builds share one folder",
    "SIGBUS": "a file that it maps is cut off, or the disk fails",
    "SIGABRT": "the runtime gave up",
    "SIGKILL": "most likely the kernel took it for want of memory",
}


def attempt(request: Request, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> Outcome:
    """Try a request in a fresh process; a crash or a hang becomes an outcome like any other."""
    paths = os.pathsep.join(path for path in sys.path if path)  # a checkout is found there as an installation is
    command = [sys.executable, "-m", "edgeplast_devices.doctor.trial", msgspec.json.encode(request).decode()]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(stage="train", error=f"no answer within {format_seconds(timeout_seconds)}", exit_code=3)
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome)
    except (IndexError, msgspec.MsgspecError):
        return Outcome(error=_death(done.returncode, done.stderr.decode("utf-8", "replace")), exit_code=3)


def _death(code: int, stderr: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"the process died of {name}" + (f": {_SIGNALS[name]}" if name in _SIGNALS else "")
    lines = [line for line in stderr.splitlines() if line.strip()]
    return f"the process ended with code {code}" + (f": {lines[-1].strip()[:200]}" if lines else "")


def check_runtime(outcome: Outcome, install: str) -> list[Finding]:
    """Put a trial of the practice graph into three findings: the runtime, its providers, one training step.

    Args:
        outcome: of the trial.
        install: the command that suits this device.
    """
    again = install.replace("pip install ", "pip install --force-reinstall ", 1)
    if not outcome.runtime:
        message, advice = split_advice(outcome.error)
        broken = failed("runtime", f"onnxruntime does not load: {message}", advice or again)
        return [broken, skipped("providers", "the runtime does not load"), skipped("training", "no runtime")]
    findings = [_runtime(outcome)]
    if "CPUExecutionProvider" in outcome.providers:
        findings.append(_providers(outcome))
    else:
        shown = ", ".join(outcome.providers) or "none"
        findings.append(failed("providers", f"the CPU provider is missing; there are: {shown}", again))
    if outcome.error:
        found, advice = split_advice(outcome.error)
        found = found if "pip install" in advice else outcome.error  # the finding has advice of its own
        message = (
            f"{outcome.runtime} loads but cannot train: {found.rstrip('.')}. "
            "Predicting may work with it, adapting will not"
        )
        findings.append(failed("training", message, again))
    else:
        message = f"a practice model learns: loss {outcome.first_loss:.3f} → {outcome.last_loss:.3f}"
        findings.append(passed("training", message))
    return findings


def _runtime(outcome: Outcome) -> Finding:
    message = outcome.runtime
    if outcome.runtime.startswith("ort-training"):
        message += f"; stock onnxruntime runs the same bundles and {STOCK_COMPARED}"
    return passed("runtime", message, resident_bytes=outcome.resident_bytes)


def _providers(outcome: Outcome) -> Finding:
    shown, placement = ", ".join(map(word_for, outcome.providers)), outcome.placement
    if placement.asked != placement.used:
        reason, advice = split_advice(placement.fallback_reason)
        message = f"{placement.asked} was asked for and does not work here, the CPU computes instead: {reason}"
        return warned("providers", message, advice, used=placement.used)
    return passed("providers", f"{shown}; {placement.used} computes", used=placement.used)


def check_bundle_steps(outcome: Outcome, budget: int | None, images: int | None) -> list[Finding]:
    """Put a trial of a bundle into findings: its head trains, the budget is met, the chosen rung's memory and speed.

    Args:
        outcome: of the trial.
        budget: bytes; None where none was given.
        images: that an epoch would have; None reports seconds per 100 images.
    """
    rest = ("budget", "speed")
    if outcome.stage in ("import", "train"):
        message = f"{outcome.runtime or 'the runtime'} cannot train this bundle: {outcome.error.rstrip('.')}"
        advice = "Export it again with this edgeplast: its graphs then suit every runtime."
        return [
            failed("its step", message, advice, outcome.exit_code or 3),
            *(skipped(check, "no step works") for check in rest),
        ]
    findings = [passed("its step", "the head trains, one image at a time")]
    allowed = "no limit" if budget is None else format_bytes(budget)
    if outcome.stage == "fit":
        message, advice = split_advice(outcome.error)
        return [*findings, failed("budget", message, advice, 4), skipped("speed", "no rung fits the budget")]
    need = f"{outcome.rung}: predicted peak {format_bytes(outcome.predicted_bytes)}"
    figures: dict[str, int | float | str] = {"rung": outcome.rung, "predicted_peak_bytes": outcome.predicted_bytes}
    if outcome.stage == "step" and not outcome.error:
        message = f"{need} of {allowed}, more than is free now; it was not tried"
        advice = "Close other programs, or give --memory with what is free."
        return [*findings, warned("budget", message, advice, **figures), skipped("speed", "the step was not tried")]
    if outcome.error:
        message = f"{need} of {allowed}, but the step failed: {outcome.error.rstrip('.')}"
        code = outcome.exit_code or 3
        return [
            *findings,
            failed("budget", message, "Give a smaller --memory, so that a smaller rung is chosen.", code, **figures),
            skipped("speed", "no step works"),
        ]
    figures["measured_peak_bytes"] = outcome.peak_bytes
    measured = f"{need}, measured {format_bytes(outcome.peak_bytes)}, allowed {allowed}"
    if budget is not None and outcome.peak_bytes > budget:
        advice = f"Give --memory {-(-outcome.peak_bytes // (1 << 20))}MiB, or expect a smaller rung."
        findings.append(warned("budget", measured, advice, **figures))
    else:
        findings.append(passed("budget", measured, **figures))
    return [*findings, _speed(outcome, images), *_ways(outcome)]


def _ways(outcome: Outcome) -> list[Finding]:
    """Say which way to take a step is taken, and how much is known of the others."""
    if not outcome.ways:
        return []
    timed = sum(way.image_seconds > 0 for way in outcome.ways)
    taken = next(way.rung for way in outcome.ways if way.is_taken)
    message = f"{len(outcome.ways)} ways to take a step fit, {timed} of them timed here; taken is {taken}"
    return [Finding(check="ways", status="pass", message=message, ways=outcome.ways)]


def _speed(outcome: Outcome, images: int | None) -> Finding:
    count = images or 100
    seconds = count * outcome.image_seconds + math.ceil(count / outcome.batch) * outcome.update_seconds
    what = f"an epoch of {count} images takes" if images else "100 images take"
    message = f"{what} about {format_seconds(seconds)}, without decoding pictures and validation"
    figures = {"image_seconds": outcome.image_seconds, "update_seconds": outcome.update_seconds}
    return passed("speed", message, **{"epoch_seconds" if images else "hundred_images_seconds": seconds}, **figures)
