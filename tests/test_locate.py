"""Where a model is: versions, half-copied ones, and copies that TensorFlow can open."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path

import pytest

from transforms.model import copies
from transforms.model.copies import copy_to_worker
from transforms.model.locate import find_version, read_meta_graphs
from transforms.runtime import temporary_folders
from transforms.specs.errors import ModelError
from transforms.storage import files


def saved_model(folder: Path, name: str = "saved_model.pb") -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / name).write_bytes(b"\x08\x01")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def test_a_folder_that_is_the_model(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "m")
    assert find_version(str(folder), None) == (str(folder), None)
    assert find_version(f"{folder}/", None) == (str(folder), None)
    assert find_version(str(saved_model(tmp_path / "text", "saved_model.pbtxt")), None)[1] is None
    with pytest.raises(ModelError, match="is one SavedModel, without numbered versions; leave out --model_version=3"):
        find_version(str(folder), "3")


def test_the_highest_number_wins_by_value_not_by_text(tmp_path: Path) -> None:
    for version in ("9", "10", "2", "00000123", "1700000000"):
        saved_model(tmp_path / version)
    assert find_version(str(tmp_path), None) == (f"{tmp_path}/1700000000", "1700000000")
    assert find_version(str(tmp_path), "9") == (f"{tmp_path}/9", "9")
    assert find_version(str(tmp_path), "00000123")[1] == "00000123"


def test_a_half_copied_version_is_passed_over(tmp_path: Path) -> None:
    saved_model(tmp_path / "7")
    (tmp_path / "8" / "variables").mkdir(parents=True)
    (tmp_path / "8" / "variables" / "variables.index").write_bytes(b"index")
    (tmp_path / "9").mkdir()
    (tmp_path / "10").write_bytes(b"a file")
    (tmp_path / "latest").mkdir()
    saved_model(tmp_path / "tmp-11")
    saved_model(tmp_path / "²")
    assert find_version(str(tmp_path), None) == (f"{tmp_path}/7", "7")
    with pytest.raises(ModelError, match="holds no SavedModel"):
        find_version(str(tmp_path), "8")


@pytest.mark.parametrize("version", ["3", "..", "", "1/variables", "/etc"])
def test_a_version_that_is_not_there(tmp_path: Path, version: str) -> None:
    saved_model(tmp_path / "m" / "1")
    saved_model(tmp_path / "m" / "12")
    with pytest.raises(ModelError, match=f"has no version {version}; its versions are: 1, 12"):
        find_version(str(tmp_path / "m"), version)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model at .*nothing: the folder does not exist or is empty. Check --model"):
        find_version(str(tmp_path / "nothing"), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model at"):
        find_version(str(tmp_path / "empty"), None)
    for name, says in (("export.meta", "Session Bundle"), ("model.keras", "Keras file"), ("notes.txt", "it holds notes.txt")):
        (tmp_path / name[:3]).mkdir()
        (tmp_path / name[:3] / name).write_bytes(b"")
        with pytest.raises(ModelError, match=f"holds no SavedModel .*{says}"):
            find_version(str(tmp_path / name[:3]), None)
    with pytest.raises(ModelError, match="no model at"):
        find_version(str(tmp_path / "exp" / "export.meta"), None)


def test_the_protobuf_alone_is_not_the_model(tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    graph = saved.meta_graphs.add()
    graph.graph_def.node.add(name="v", op="VarHandleOp")
    graph.saver_def.restore_op_name = "save/restore_all"
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(ModelError, match=r"has variables, but variables/variables\.index is missing: copy the whole folder again"):
        read_meta_graphs(str(tmp_path))
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(b"")
    assert len(read_meta_graphs(str(tmp_path))) == 1
    (tmp_path / "saved_model.pb").unlink()
    with pytest.raises(ModelError, match="holds no SavedModel"):
        read_meta_graphs(str(tmp_path))


# --- copies ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the copies, in a temporary folder of the test's own."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return temporary_folders.own_folder("models")


def test_a_plain_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = str(saved_model(tmp_path / "a b ü"))
    assert copy_to_worker(folder) == folder


@pytest.mark.parametrize("name", ["m [v1]", "m*", "m?", "m\\x", "m{a}]"])
def test_a_name_that_tensorflow_takes_for_a_pattern_is_copied(cache: Path, tmp_path: Path, name: str) -> None:
    folder = saved_model(tmp_path / name)
    (folder / "variables" / "deep").mkdir()
    (folder / "variables" / "deep" / "f").write_bytes(b"x" * 1000)
    copy = copy_to_worker(str(folder))
    assert not set("[]*?\\") & set(copy)
    assert {f.relative: files.read_bytes(f.path) for f in files.list_folder(copy)} == {
        f.relative: files.read_bytes(f.path) for f in files.list_folder(str(folder))
    }
    assert copy_to_worker(str(folder)) == copy
    assert os.listdir(cache) == [os.path.basename(copy)], "no half copy is left"


def test_a_model_exported_anew_under_the_same_name_is_copied_anew(cache: Path, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "m[1]")
    first = copy_to_worker(str(folder))
    (folder / "saved_model.pb").write_bytes(b"\x08\x02")
    os.utime(folder / "saved_model.pb", (1, 1))
    second = copy_to_worker(str(folder))
    assert first != second
    assert files.read_bytes(f"{second}/saved_model.pb") == b"\x08\x02"


def test_copies_are_removed_by_age_and_bytes_the_least_used_first(cache: Path, tmp_path: Path) -> None:
    made = []
    for number in range(4):
        folder = saved_model(tmp_path / f"m[{number}]")
        (folder / "weights").write_bytes(b"x" * 1000)
        made.append(Path(copy_to_worker(str(folder))))
        os.utime(made[-1], (time.time() - 1000 + number,) * 2)
    size = sum(file.size_bytes for file in files.list_folder(str(made[0])))
    strange = [cache / "x-y", cache / "1"]
    for path in strange:
        path.mkdir()
    handle = os.open(made[0], os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as a process does that loads it
    copies.copied_bytes.clear()
    copies.make_room(cache, size, most_bytes=3 * size)
    assert {*cache.iterdir()} == {made[0], made[3], *strange}, "of those that nobody holds the oldest two went"
    os.close(handle)
    os.utime(made[3], (time.time() - 8 * 86400,) * 2)
    copies.copied_bytes.clear()
    copies.make_room(cache, 0, most_bytes=100 * size)
    assert {*cache.iterdir()} == {made[0], *strange}, "not used for a week"


def test_a_copy_that_is_gone_is_made_again(cache: Path, tmp_path: Path) -> None:
    folder = str(saved_model(tmp_path / "m[1]"))
    with copies.held(folder) as first:
        assert not copies.remove(first), "it is held"
        assert os.path.isdir(first)
    assert copies.remove(first)
    assert os.listdir(cache) == []
    with copies.held(folder, first) as second:
        assert files.read_bytes(f"{second}/saved_model.pb") == b"\x08\x01"


def test_a_copy_is_as_long_as_the_file_that_was_listed(cache: Path, tmp_path: Path) -> None:
    """Cut off on the way, it would be kept for all later runs."""
    folder = saved_model(tmp_path / "m[1]")
    listed = files.FoundFile(str(folder / "saved_model.pb"), 1000, "saved_model.pb")
    with pytest.raises(OSError, match=r"saved_model.pb: copied 2 of 1000 bytes"):
        copies.copy_file(listed, str(tmp_path / "copy" / "saved_model.pb"))
    listed = files.FoundFile(str(folder / "saved_model.pb"), 2, "saved_model.pb", crc32c="00000000")
    with pytest.raises(OSError, match="its bytes are not those that were listed"):
        copies.copy_file(listed, str(tmp_path / "copy" / "saved_model.pb"))


@pytest.mark.parametrize("alias", ["../7", "7/..", "/etc", ""])
def test_an_alias_names_a_version_and_no_other_folder(tmp_path: Path, alias: str) -> None:
    saved_model(tmp_path / "models" / "m" / "7")
    saved_model(tmp_path / "models" / "7")
    (tmp_path / "models" / "m" / "latest").write_text(alias)
    with pytest.raises(ModelError, match="latest should hold the name of a version, such as 7; found"):
        find_version(str(tmp_path / "models" / "m"), None)
    (tmp_path / "models" / "m" / "latest").write_text("7\n")
    assert find_version(str(tmp_path / "models" / "m"), None)[1] == "7"
