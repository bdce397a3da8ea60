"""How warm the device is, how much power it draws and whether it slows down: from sysfs, as any user may read it.

psutil's ``sensors_temperatures`` was weighed: it has neither rails nor what slows a processor down, looks for its files
at each call, reads all limits too, and knows no root but ``/``: tests hand in trees as boards have them.

Where a file is not there, its figure is not there: every field may be empty. :class:`Sensors` looks for the files
once, so that a look at each training step costs a few file reads. Sources of the layouts:

* temperatures, cooling devices: Linux, Documentation/ABI/testing/sysfs-class-thermal; of a PC's processor hwmon;
* power on a Jetson: Linux, Documentation/hwmon/ina3221.rst (JetPack 5 and newer); before that the driver
  ``ina3221x`` with ``rail_name_N`` and ``in_powerN_input`` (NVIDIA, Jetson Linux Developer Guide, R32);
* throttling on a Jetson: ``*-throttle-alert`` among the cooling devices and the counters ``ocN_event_cnt``
  (NVIDIA, Jetson Linux Developer Guide, R36, "Thermal Management" and "Over-Current Protection");
* on a Raspberry Pi: the firmware's ``get_throttled`` (bits as in the documentation of ``vcgencmd``);
* on a PC: ``thermal_throttle/*_throttle_count`` of each processor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

_UNREAL_ZONES = ("PMIC-Die", "thermal-fan-est", "Tboard", "Tdiode")
"""Zones that are constants, estimates or not the chip (a Jetson Nano's PMIC-Die always reads 100 °C)."""

_INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that carry all that the module draws; boards without one (AGX Orin) are the sum of their rails."""

_PI_FLAGS = {0: "low voltage", 1: "clock capped", 2: "throttled by the firmware", 3: "soft temperature limit"}
"""Bits of ``get_throttled`` that hold now; the same ones 16 higher mean "since boot"."""

_PI_FIRMWARE = ("soc*/*firmware*/get_throttled", "*firmware*/get_throttled")
"""Where the Raspberry Pi's firmware driver lies under ``/sys/devices/platform``; the address differs by model."""

_PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower")
"""Sensors of a PC's processor that are no thermal zones (Linux, Documentation/hwmon); AMD's have no zone at all."""


class ThermalState(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the sensors.

    Attributes:
        temperatures_celsius: zone to its temperature.
        power_watts: of the whole module; None where it is not measured.
        rails_watts: rail to its power.
        slowed_by: what slows the processor down right now; empty if nothing does, or nothing can be read.
        throttle_events: times that heat or current slowed it down since it was switched on.
        clock_fraction: of the processor's highest clock, the fastest core's now; None where it is not shown.
        clock_cap_fraction: of the processor's highest clock, what is allowed now (by heat or by a power mode).
    """

    temperatures_celsius: dict[str, float] = {}
    power_watts: float | None = None
    rails_watts: dict[str, float] = {}
    slowed_by: tuple[str, ...] = ()
    throttle_events: int = 0
    clock_fraction: float | None = None
    clock_cap_fraction: float | None = None

    @property
    def hottest_celsius(self) -> float | None:
        """The highest temperature; None where none is shown."""
        return max(self.temperatures_celsius.values(), default=None)


class Sensors:
    """The sensors of a machine: found once, read as often as needed.

    A look costs what its file reads cost: 0.15 ms for the files of an Orin Nano, recorded on a disk (searching for
    them each time: 3 ms). On a board, power sensors sit on a bus (I²C), which adds its own time.

    Args:
        root: where ``sys`` lies.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._zones = list(_find_zones(root))
        self._rails = list(_find_rails(root))
        self._cooling = list(_find_cooling(root))
        self._pi_flags = [str(p) for g in _PI_FIRMWARE for p in sorted((root / "sys/devices/platform").glob(g))]
        self._pi_alarms = [
            str(chip / "in0_lcrit_alarm") for chip in _chips(root) if _text(str(chip / "name")) == "rpi_volt"
        ]
        self._counters = [
            *map(str, (root / "sys/class/hwmon").glob("hwmon*/oc[123]_event_cnt")),
            *map(str, (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")),
        ]
        self._clocks = list(_find_clocks(root))

    def read(self) -> ThermalState:
        """Look at every sensor there is."""
        rails = dict(self._powers())
        total = next((rails[name] for name in _INPUT_RAILS if name in rails), sum(rails.values()) if rails else None)
        clocks = [(_number(now), _number(cap), highest) for now, cap, highest in self._clocks]
        return ThermalState(
            temperatures_celsius=dict(self._temperatures()),
            power_watts=total,
            rails_watts=rails,
            slowed_by=tuple(dict.fromkeys(self._slowed_by())),
            throttle_events=sum(_number(counter) or 0 for counter in self._counters),
            clock_fraction=max((now / highest for now, _, highest in clocks if now), default=None),
            clock_cap_fraction=max((cap / highest for _, cap, highest in clocks if cap), default=None),
        )

    def _temperatures(self) -> Iterator[tuple[str, float]]:
        for name, file in self._zones:
            value = _number(file)
            if value is not None and -40_000 < value < 200_000:
                yield name, value / 1000

    def _powers(self) -> Iterator[tuple[str, float]]:
        """Yield rail and watts."""
        for name, files in self._rails:
            values = [_number(file) for file in files]
            if None not in values:
                milli = [value for value in values if value is not None]
                yield name, milli[0] * milli[1] / 1e6 if len(milli) == 2 else milli[0] / 1000

    def _slowed_by(self) -> Iterator[str]:
        """Yield what holds the processor back now: cooling devices in force, the Raspberry Pi's flags."""
        yield from (name for name, file in self._cooling if _number(file))
        for file in self._pi_flags:
            flags = _number(file, base=16)  # printed without 0x
            yield from (words for bit, words in _PI_FLAGS.items() if flags is not None and flags >> bit & 1)
        if any(_number(file) for file in self._pi_alarms):
            yield _PI_FLAGS[0]


def read_thermals(root: Path = Path("/")) -> ThermalState:
    """Find every sensor there is and read it once; see :class:`Sensors` for many looks.

    Args:
        root: where ``sys`` lies.
    """
    return Sensors(root).read()


def _find_zones(root: Path) -> Iterator[tuple[str, str]]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = _text(str(zone / "type"))
        if name and not name.startswith(_UNREAL_ZONES):
            yield name, str(zone / "temp")
    for chip in _chips(root):
        if (name := _text(str(chip / "name"))) in _PROCESSOR_CHIPS:
            yield name, str(chip / "temp1_input")  # of the package: those of its cores come after it


def _find_rails(root: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield rail, and the files of its millivolts and milliamperes, or of its milliwatts."""
    for chip in _chips(root):
        if _text(str(chip / "name")) != "ina3221":
            continue
        for label in sorted(chip.glob("in[123]_label")):  # in4 to in7 are shunt voltages and their sum
            channel, name = label.name[2], _text(str(label))
            if name and name != "NC":
                yield name, (str(chip / f"in{channel}_input"), str(chip / f"curr{channel}_input"))
    for label in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio[:_]device*/rail_name_[012]")):
        yield _text(str(label)), (str(label.with_name(f"in_power{label.name[-1]}_input")),)


def _find_cooling(root: Path) -> Iterator[tuple[str, str]]:
    """Yield cooling devices that hold the processor back; fans cool without slowing anything."""
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = _text(str(device / "type"))
        if re.search(r"throttle-alert|cpufreq|^Processor$", kind):
            yield re.sub(r"\d+$", "", kind).rstrip("-"), str(device / "cur_state")


def _find_clocks(root: Path) -> Iterator[tuple[str, str, int]]:
    """Yield the files of the clock now and of the one allowed, and the highest; once for cores that share them."""
    policies = {p.resolve() for p in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")}
    for policy in sorted(policies):
        highest = _number(str(policy / "cpuinfo_max_freq"))
        if highest:
            yield str(policy / "scaling_cur_freq"), str(policy / "scaling_max_freq"), highest


def _chips(root: Path) -> list[Path]:
    return sorted((root / "sys/class/hwmon").glob("hwmon*"))


def _text(file: str) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:  # absent
        return ""
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace").strip()
    except OSError:  # a sensor that is switched off (reading it is EAGAIN or EINVAL)
        return ""
    finally:
        os.close(descriptor)


def _number(file: str, base: int = 10) -> int | None:
    try:
        return int(_text(file), base)
    except ValueError:
        return None
