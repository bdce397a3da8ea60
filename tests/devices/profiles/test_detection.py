"""Recognising machines and reading their sensors, on recorded file trees."""

from __future__ import annotations

from pathlib import Path

import pytest
import recorded_trees as trees

from edgeplast_devices.detection import Machine, Recognised, recognise, this_machine
from edgeplast_devices.device_profiles import profile_defaults
from edgeplast_devices.thermals import Sensors, ThermalState, read_thermals

GB = 10**9


def _look(root: Path, tree: trees.Tree, memory: float = 8, cores: int = 6, **kind: str) -> Recognised:
    where = {"system": "Linux", "architecture": "aarch64"} | kind
    return recognise(this_machine(trees.plant(root, tree), memory_bytes=int(memory * GB), cores=cores, **where))


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (trees.ORIN_NANO_SUPER, "jetson-orin-nano-8gb"),
        (trees.ORIN_NX_16GB, "jetson-orin-nx-16gb"),
        (trees.AGX_ORIN_64GB, "jetson-agx-orin-64gb"),
        (trees.XAVIER_NX, "jetson-xavier-nx"),
        (trees.NANO, "jetson-nano"),
        (trees.PI_4, "raspberry-pi-4"),
        (trees.PI_5, "raspberry-pi-5"),
        (trees.COMPUTE_MODULE_5, "raspberry-pi-5"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_boards_are_recognised_by_their_device_tree(tmp_path: Path, tree: trees.Tree, name: str) -> None:
    found = _look(tmp_path, tree)
    assert (found.profile.name, found.exact) == (name, True)
    assert found.why.startswith("the device tree says ")


@pytest.mark.parametrize(
    ("tree", "kind", "name"),
    [
        (trees.LAPTOP, {"architecture": "x86_64"}, "x86-laptop"),
        (trees.MINI_PC, {"architecture": "x86_64"}, "mini-pc"),
        ({}, {"system": "Darwin", "architecture": "arm64"}, "apple-silicon-laptop"),
    ],
)
def test_pcs_are_recognised_by_kind(tmp_path: Path, tree: trees.Tree, kind: dict[str, str], name: str) -> None:
    found = _look(tmp_path, tree, **kind)
    assert (found.profile.name, found.exact) == (name, True)


@pytest.mark.parametrize(("memory", "name"), [(7.4, "jetson-orin-nano-8gb"), (15.3, "jetson-orin-nx-16gb"),
                                              (62, "jetson-agx-orin-64gb")])  # fmt: skip
def test_an_unlisted_board_with_a_known_chip_gets_the_relative_nearest_in_memory(
    tmp_path: Path, memory: float, name: str
) -> None:
    found = _look(tmp_path, trees.ORIN_ON_A_STRANGE_CARRIER, memory)
    assert (found.profile.name, found.exact) == (name, False)
    assert found.why == "Some Camera with Orin is not listed; its chip is nvidia,tegra234"


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (trees.ORIN_NANO_SUPER, "jetson-orin-nano-8gb"),
        (trees.XAVIER_NX, "jetson-xavier-nx"),
        (trees.NANO, "jetson-nano"),
    ],
)
def test_a_container_without_device_tree_is_known_by_its_release(tmp_path: Path, tree: trees.Tree, name: str) -> None:
    only = {path: content for path, content in tree.items() if path.startswith("etc/")}
    found = _look(tmp_path, only)
    assert (found.profile.name, found.exact) == (name, False)
    assert "/etc/nv_tegra_release" in found.why


@pytest.mark.parametrize(
    ("tree", "kind", "memory", "name"),
    [
        (trees.ROCK_5, {}, 16, "jetson-orin-nx-16gb"),
        (trees.ROCK_5, {}, 3.8, "raspberry-pi-4"),
        ({}, {"architecture": "x86_64"}, 7.5, "mini-pc"),  # a virtual machine: no chassis
        ({}, {"system": "Windows", "architecture": "AMD64"}, 16, "x86-laptop"),
        ({}, {"architecture": "riscv64"}, 1, "jetson-nano"),
    ],
)
def test_the_rest_gets_the_nearest_and_is_told_so(
    tmp_path: Path, tree: trees.Tree, kind: dict[str, str], memory: float, name: str
) -> None:
    found = _look(tmp_path, tree, memory, **kind)
    assert not found.exact and "no profile describes" in found.why and "nearest in memory" in found.why
    assert found.profile.memory_bytes == profile_defaults(name).memory_bytes


def test_a_board_with_less_memory_than_its_profile_gets_a_smaller_budget() -> None:
    pi = profile_defaults("raspberry-pi-5")
    for memory, budget in ((16.9, 1 << 30), (8.3, 1 << 30), (7.9, 1 << 30), (4.1, 1 << 29), (1.9, 1 << 28)):
        machine = Machine(system="Linux", architecture="aarch64", memory_bytes=int(memory * GB), cores=3)
        fitted = Recognised(machine=machine, profile=pi, exact=True, why="").fitted
        assert (fitted.budget_bytes, fitted.threads, fitted.cores) == (budget, 3, 3), memory
        assert fitted.memory_bytes == machine.memory_bytes


def test_this_machine_can_be_looked_at_and_named() -> None:
    machine = this_machine()
    assert machine.memory_bytes > 1 << 28 and machine.cores >= 1 and machine.system
    assert profile_defaults("auto").memory_bytes == machine.memory_bytes


def test_an_orins_sensors(tmp_path: Path) -> None:
    state = read_thermals(trees.plant(tmp_path, trees.ORIN_NANO_SUPER))
    assert state.temperatures_celsius == {"cpu-thermal": 53.468, "gpu-thermal": 54.062, "soc0-thermal": 52.5}
    assert state.hottest_celsius == 54.062
    assert state.rails_watts.keys() == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert state.power_watts == pytest.approx(5.072 * 1.904)
    assert state.slowed_by == ("cpu-throttle-alert",)  # the fan and the GPU's own steps are none of it
    assert state.throttle_events == 27
    assert state.clock_fraction == pytest.approx(1344 / 1728) and state.clock_cap_fraction == 1.0


def test_an_agx_orins_power_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    state = read_thermals(trees.plant(tmp_path, trees.AGX_ORIN_64GB))
    assert state.rails_watts.keys() == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert state.power_watts == pytest.approx(13.23, abs=0.01)


def test_a_nanos_sensors(tmp_path: Path) -> None:
    state = read_thermals(trees.plant(tmp_path, trees.NANO))
    assert state.hottest_celsius == 45.5  # not the PMIC's constant 100
    assert state.power_watts == 2.875 and state.rails_watts["POM_5V_CPU"] == 0.815
    assert state.clock_cap_fraction == pytest.approx(0.623, abs=1e-3) and state.slowed_by == ()


def test_raspberry_pis_say_what_slows_them_down(tmp_path: Path) -> None:
    assert read_thermals(trees.plant(tmp_path / "4", trees.PI_4)).slowed_by == ("soft temperature limit",)
    five = read_thermals(trees.plant(tmp_path / "5", trees.PI_5))
    assert five.slowed_by == ("low voltage",) and five.hottest_celsius == 48.312


def test_a_laptops_processor_states_and_counters(tmp_path: Path) -> None:
    state = read_thermals(trees.plant(tmp_path, trees.LAPTOP))
    assert state.slowed_by == ("Processor",) and state.throttle_events == 6 and state.power_watts is None


def test_no_sensors_are_no_error(tmp_path: Path) -> None:
    assert read_thermals(tmp_path) == ThermalState() and ThermalState().hottest_celsius is None
    read_thermals()  # whatever this machine has


class TestManyLooks:
    def test_each_look_sees_the_present_and_searches_no_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sensors = Sensors(trees.plant(tmp_path, trees.ORIN_NANO_SUPER))
        monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("a look searched for files"))
        first = sensors.read()
        (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("91000\n")
        (tmp_path / "sys/class/thermal/cooling_device2/cur_state").write_text("0\n")
        second = sensors.read()
        assert (first.hottest_celsius, second.hottest_celsius) == (54.062, 91.0)
        assert (first.slowed_by, second.slowed_by) == (("cpu-throttle-alert",), ())

    def test_a_sensor_that_goes_away_is_left_out(self, tmp_path: Path) -> None:
        sensors = Sensors(trees.plant(tmp_path, trees.ORIN_NANO_SUPER))
        for name in ("sys/class/hwmon/hwmon1/in1_input", "sys/class/thermal/thermal_zone0/temp"):
            (tmp_path / name).unlink()
        state = sensors.read()
        assert "VDD_IN" not in state.rails_watts and "cpu-thermal" not in state.temperatures_celsius
        assert state.power_watts == pytest.approx(sum(state.rails_watts.values()))


def test_a_processor_without_a_thermal_zone_shows_its_own_sensor(tmp_path: Path) -> None:
    chips = {
        "sys/class/hwmon/hwmon0/name": "nvme\n",
        "sys/class/hwmon/hwmon0/temp1_input": "91000\n",  # hot, and no processor
        "sys/class/hwmon/hwmon1/name": "k10temp\n",
        "sys/class/hwmon/hwmon1/temp1_input": "62500\n",
    }
    state = read_thermals(trees.plant(tmp_path, chips))
    assert state.temperatures_celsius == {"k10temp": 62.5} and state.hottest_celsius == 62.5
