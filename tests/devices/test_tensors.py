"""Arrays written piece by piece are what the safetensors package reads, and the other way round."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from safetensors.numpy import load_file, save_file

from edgeplast.bundle import TRAINABLE
from edgeplast.errors import DamagedError
from edgeplast_devices.checkpoints import Checkpoint, read_best_into, write_hashed
from edgeplast_devices.run_state import RunState
from edgeplast_devices.tensors import (
    MOST_HEADER_BYTES,
    fill_arrays,
    open_arrays,
    read_arrays,
    read_metadata,
    write_arrays,
)
from edgeplast_devices.tethers import Tether

ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    stn.arrays(np.float32, stn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)),
    max_size=4,
)


@settings(max_examples=50, deadline=None)
@given(ARRAYS)
def test_the_safetensors_package_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    write_arrays(path, arrays)
    for read in (load_file(path), read_arrays(path)):
        assert read.keys() == arrays.keys()
        for name, array in arrays.items():
            assert read[name].shape == array.shape and read[name].dtype == np.float32
            np.testing.assert_array_equal(read[name], array)


def test_large_and_strided_arrays_and_metadata(tmp_path: Path) -> None:
    large = np.arange(3_000_000, dtype=np.float32).reshape(1000, 3000)
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"straight": large, "turned": large.T[::2]}, {"step": "7"})
    read = read_arrays(path, ["turned"])
    assert list(read) == ["turned"] and read["turned"].flags.writeable
    np.testing.assert_array_equal(read["turned"], large.T[::2])
    assert read_metadata(path) == {"step": "7"} and path.stat().st_size < 4 * 4_500_000 + 1000
    assert (path.read_bytes()[:8][0] + 8) % 8 == 0


def test_files_of_the_package_are_read(tmp_path: Path) -> None:
    save_file({"a": np.eye(3, dtype=np.float32)}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.safetensors")["a"], np.eye(3))
    assert read_metadata(tmp_path / "a.safetensors") == {}


def test_damaged_files_and_missing_names_are_said_so(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"a": np.ones(8, np.float32)})
    with pytest.raises(DamagedError, match=r"a\.safetensors"):
        read_arrays(path, ["b"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"cannot be read: it ends in the middle of a\."):
        read_arrays(path)
    whole = path.read_bytes()
    for length in range(len(whole) - 31):  # cut in the header
        path.write_bytes(whole[:length])
        for read in (read_arrays, read_metadata):
            with pytest.raises(DamagedError, match="cannot be read"):
                read(path)
    with pytest.raises(DamagedError, match="cannot be read"):
        read_arrays(tmp_path / "none.safetensors")


def _file(path: Path, header: bytes, data: bytes = bytes(32), length: int | None = None) -> Path:
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'{"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,28]}}', r"a has 28 bytes for shape \[2, 4\]"),
        (b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', "ends in the middle of a"),
        (b'{"a":{"dtype":"F32","shape":[8],"data_offsets":[32,0]}}', "a has -32 bytes"),
        (b'{"a":{"dtype":"F32","shape":[-8],"data_offsets":[0,32]}}', "Expected `int` >= 0"),
        (
            b'{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,1e9]}}',
            "Expected `int`|ends in the middle|bytes for shape",
        ),
        (b'{"a":{"dtype":"F32","shape":[99999999999999999999,8],"data_offsets":[0,32]}}', "Expected `int` <="),
        (b'{"a":{"dtype":"F32","shape":[2000000000,2000000000],"data_offsets":[0,32]}}', "has 32 bytes for shape"),
        (b'{"a":{"dtype":"F32","shape":[' + b"1," * 99 + b'8],"data_offsets":[0,32]}}', "dimension"),
        (b'{"a":{"dtype":"I64","shape":[4],"data_offsets":[0,32]}}', "a is I64, not F32"),
        (b'{"a":[]}', "Expected `object`, got `array`"),
        (b'{"a":7}', "Expected `object`, got `int`"),
        (b'{"a":{"dtype":"F32","shape":[8]}}', "missing required field `data_offsets`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`"),
        (b'{"a":' + b"[" * 100_000, "recursion|truncated"),
        (b'{"\xff":{}}', "utf-8|UTF-8"),
        (b'{"__metadata__":', "truncated|ends"),
    ],
)
def test_a_header_that_cannot_be_says_why(tmp_path: Path, header: bytes, reason: str) -> None:
    with pytest.raises(DamagedError, match=rf"cannot be read: .*({reason}).*Copy it again"):
        read_arrays(_file(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("metadata", [b'"\xff\xfe"', b"7", b"[]", b'{"a":1}', b'{"a":{}}', b"null", b'{"a":"\xff"}'])
def test_metadata_that_cannot_be_says_so(tmp_path: Path, metadata: bytes) -> None:
    path = _file(tmp_path / "a.safetensors", b'{"__metadata__":' + metadata + b"}")
    with pytest.raises(DamagedError, match="cannot be read: "):
        read_metadata(path)


def test_a_long_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", b"{}", length=100 << 20)
    with path.open("r+b") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    for read in (read_arrays, read_metadata):
        with pytest.raises(DamagedError, match="its header would have 100 MiB, where 4 MiB are allowed"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    for length in (MOST_HEADER_BYTES, 2**63, 2**64 - 1, 1):  # or longer than the file
        with pytest.raises(DamagedError, match="its header"):
            read_arrays(_file(tmp_path / "b.safetensors", b"{}", length=length))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("most", [1, 7, 24, 100])
def test_an_array_comes_in_pieces_too(tmp_path: Path, most: int) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    write_arrays(tmp_path / "a.safetensors", {"before": array + 1, "a": array, "none": array[:0]})
    with open_arrays(tmp_path / "a.safetensors") as file:
        pieces = [piece.copy() for piece in file.pieces("a", most)]
        assert not list(file.pieces("none", most))
    assert max(map(len, pieces)) == min(most, 24)
    np.testing.assert_array_equal(np.concatenate(pieces), array.reshape(-1))
    with pytest.raises(DamagedError, match="it has no array 'b'"), open_arrays(tmp_path / "a.safetensors") as file:
        list(file.pieces("b", most))


def test_a_tether_takes_no_memory_beside_what_it_holds(tmp_path: Path) -> None:
    came = {"large": np.ones(3_000_001, np.float32), "small": np.zeros((2, 3), np.float32)}
    write_arrays(tmp_path / TRAINABLE, came)
    tether = Tether(SimpleNamespace(path=tmp_path), 0.25, {*came})  # type: ignore[arg-type]
    now = {name: array * 2 for name, array in came.items()}
    assert tether.moved(now) == pytest.approx(1)
    tracemalloc.start()
    tether.hold(now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20
    np.testing.assert_allclose(now["large"], 1.25, rtol=1e-5)
    assert tether.moved(now) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("what", ["best", "checkpoint"])
def test_weights_come_back_into_the_memory_in_which_they_stand(tmp_path: Path, what: str) -> None:
    saved = {f"w{i}": np.full((256, 256), i, np.float32) for i in range(64)}
    file = write_hashed(tmp_path, what, 7, saved)
    standing = {name: np.zeros_like(array) for name, array in saved.items()}
    tracemalloc.start()
    if what == "best":
        read_best_into(tmp_path, file.name, standing)
    else:
        Checkpoint(file, cast("RunState", None)).read_into(standing | {"new": np.ones(2, np.float32)})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 0.1 * sum(array.nbytes for array in saved.values())
    for name, array in saved.items():
        np.testing.assert_array_equal(standing[name], array)


def test_arrays_of_another_shape_or_name_are_damage(tmp_path: Path) -> None:
    write_arrays(tmp_path / "w", {"a": np.ones((2, 3), np.float32)})
    with pytest.raises(DamagedError, match=r"cannot be read: a has shape \[2, 3\], not \[3, 2\]\. Copy it again"):
        fill_arrays(tmp_path / "w", {"a": np.ones((3, 2), np.float32)})
    with pytest.raises(DamagedError, match=r"it has no array 'b'"):
        fill_arrays(tmp_path / "w", {"b": np.ones(2, np.float32)})
    lacking = {"b": np.ones(2, np.float32)}
    fill_arrays(tmp_path / "w", lacking, partly=True)
    assert lacking["b"].tolist() == [1, 1]


def test_what_was_opened_is_what_is_read(tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_arrays(path, {"a": np.ones(8, np.float32)})
    write_arrays(other, {"a": np.zeros(8, np.float32)})
    with open_arrays(path) as file:
        other.replace(path)
        np.testing.assert_array_equal(file.read("a"), np.ones(8))
    np.testing.assert_array_equal(read_arrays(path)["a"], np.zeros(8))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_are_arrays_or_damage(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)}, {"x": "y"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 33))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    for read in (read_arrays, read_metadata):
        with suppress(DamagedError):
            read(path)
