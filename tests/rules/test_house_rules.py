"""The few rules of the house that no linter checks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = [path for room in ("edgeplast", "exporters", "devices") for path in sorted((ROOT / room).rglob("*.py"))]
DEVICE_ROOM = sorted((ROOT / "devices").rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Top-level packages and full names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found | {name.partition(".")[0] for name in found}


def _shown(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_the_first_line_of_every_file_is_its_job() -> None:
    silent = [path for path in CODE if not path.read_text().startswith('"""')]
    assert _shown(silent) == []


def test_one_file_of_the_device_room_knows_psutil_and_one_nvml() -> None:
    for package, only in (("psutil", "memory.py"), ("pynvml", "device_memory.py")):
        users = [path for path in DEVICE_ROOM if package in _imports(path)]
        assert _shown(users) == [f"devices/edgeplast_devices/{only}"], package


def test_onnxruntime_is_imported_in_one_file_which_silences_it() -> None:
    """Everything else goes through it: the rooms, the examples, and the tests that run graphs themselves."""
    others = [path for room in ("examples", "tests") for path in sorted((ROOT / room).rglob("*.py"))]
    users = [path for path in [*CODE, *others] if "onnxruntime" in _imports(path)]
    assert _shown(users) == ["edgeplast/quiet_runtime.py"]
    doors = [path for path in DEVICE_ROOM if "edgeplast.quiet_runtime" in _imports(path)]
    assert _shown(doors) == ["devices/edgeplast_devices/runtime.py"]


def test_the_device_room_imports_nothing_but_what_its_readme_names() -> None:
    allowed = {
        "numpy",
        "PIL",
        "psutil",
        "msgspec",
        "safetensors",
        "onnxruntime",
        "pyarrow",
        "pynvml",
        "tomli",
        "edgeplast",
        "edgeplast_devices",
    }
    for path in DEVICE_ROOM:
        top = {name for name in _imports(path) if "." not in name}
        assert top <= allowed | sys.stdlib_module_names, path
    readme = (ROOT / "devices/README.md").read_text()
    for name in ("numpy", "Pillow", "psutil", "msgspec", "safetensors", "onnxruntime", "nvidia-ml-py", "pyarrow"):
        assert name in readme


def test_no_matrix_product_of_the_device_room_calls_blas() -> None:
    """OpenBLAS ends the process where it finds no memory, as behind the wall of a budget; einsum does not call it."""
    for path in DEVICE_ROOM:
        for node in ast.walk(ast.parse(path.read_text())):
            by_sign = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult)
            by_name = isinstance(node, ast.Attribute) and node.attr in ("matmul", "tensordot", "inner", "multi_dot")
            assert not by_sign and not by_name, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_only_the_command_line_knows_typer_and_rich() -> None:
    users = [path for path in CODE if {"typer", "rich"} & _imports(path)]
    assert {path.parent.name for path in users} <= {"cli"}, _shown(users)


def test_nothing_is_unpickled() -> None:
    users = [path for path in CODE if {"pickle", "dill", "joblib", "cloudpickle"} & _imports(path)]
    assert _shown(users) == []


def test_files_stay_readable() -> None:
    long = [path for path in CODE if len(path.read_text().splitlines()) > 400]
    assert _shown(long) == []


def test_no_tracked_file_names_the_place_it_was_written_at() -> None:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    place = "/" + "work" + "/"
    found = []
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and place.encode() in path.read_bytes():
            found.append(name)
    assert found == []
