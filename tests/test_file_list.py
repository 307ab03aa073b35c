"""Lists of files: each file's bytes are an instance, its path the key; a file that is not there costs itself."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from jobs import check_output, lines, run
from saved_models import Models

from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats.file_list import reader as file_list_reader
from transforms.formats.file_list.reader import FileListReader, why_not
from transforms.rows.codes import Code
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits
from transforms.specs.signature import Signature, TensorSpec


def signature(*dims: int | None, dtype: str = "string") -> Signature:
    return Signature("s", ("serve",), (TensorSpec("image", "image:0", dtype, dims),), (TensorSpec("y", "y:0", "float32", (None,)),))


SPEC = RowSpec(signature(None))


def read(path: Path, spec: RowSpec = SPEC, start: int = 0, stop: int | None = None) -> list[InstanceBatch]:
    return list(FileListReader(spec).read(FileRange(str(path), start, stop, path.stat().st_size, path.name)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(np.random.default_rng(number).bytes(1000 * number))
    (folder / "with [brackets] ü.png").write_bytes(b"odd")
    return folder


def test_paths_patterns_and_what_is_not_there(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    (images / "folder").mkdir()
    (images / "closed.png").write_bytes(b"x")
    listed = [
        "0.png",
        "",
        f"{images}/[12].png",
        "# no comment",
        "   ",
        "nowhere-*.png",
        "with [brackets] ü.png",
        "3.png",
        "folder",
        "0.png/x",
    ]
    content = ("\ufeff" + "\r\n".join(listed)).encode()
    (images / "list.txt").write_bytes(content)
    batches = read(images / "list.txt")
    assert all(batch.source == str(images / "list.txt") for batch in batches)
    values = {
        json.loads(key): value for batch in batches for key, value in zip(batch.keys.to_pylist(), batch.columns["image"], strict=True)
    }
    paths = ["0.png", f"{images}/1.png", f"{images}/2.png", "with [brackets] ü.png", "3.png"]
    assert values == {path: Path(path).read_bytes() for path in paths}
    failed = [row for batch in batches for row in batch.failed]
    assert [(json.loads(row.instance), row.code) for row in failed] == [
        (line, Code.FILE_NOT_FOUND) for line in ("# no comment", "nowhere-*.png", "folder", "0.png/x")
    ]
    assert all(content[row.offset :].startswith(json.loads(row.instance).encode()) for row in failed)
    assert "no comment" in failed[0].message
    offsets = [int(offset) for batch in batches for offset in batch.offsets]
    assert [content[offset:].split(b"\r\n")[0].decode() for offset in offsets] == [listed[0], *[listed[2]] * 2, listed[6], listed[7]]


def test_batches_are_bounded_by_bytes(images: Path) -> None:
    (images / "list.txt").write_text("".join(f"{images}/{number}.png\n" for number in (0, 1, 2, 3, 4, 0)))
    small = dataclasses.replace(SPEC, limits=Limits(batch_bytes=3500))
    groups = ((0, 1, 2), (3,), (4,), (0,))  # 3,000 bytes, 3,000, 4,000 and none
    expected = [[(images / f"{number}.png").read_bytes() for number in group] for group in groups]
    assert [batch.columns["image"].tolist() for batch in read(images / "list.txt", small)] == expected
    smaller = dataclasses.replace(SPEC, limits=Limits(batch_bytes=3500, row_bytes=3500))
    failed = [row for batch in read(images / "list.txt", smaller) for row in batch.failed]
    assert [(row.code, json.loads(row.key)) for row in failed] == [(Code.ROW_TOO_LONG, f"{images}/4.png")]


def test_a_file_that_goes_before_it_is_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (images / "list.txt").write_text(f"{images}/1.png\n{images}/2.png\n")
    reader = FileListReader(SPEC)
    match = file_list_reader.files.match

    def match_and_delete(pattern: str) -> list:
        found = list(match(pattern))
        if pattern.endswith("1.png"):
            (images / "1.png").unlink()
        return found

    monkeypatch.setattr(file_list_reader.files, "match", match_and_delete)
    (batch,) = reader.read(FileRange(str(images / "list.txt"), 0, None, 0, "list.txt"))
    assert [(row.code, row.key.decode()) for row in batch.failed] == [(Code.FILE_NOT_FOUND, f'"{images}/1.png"')]
    assert batch.keys.to_pylist() == [f'"{images}/2.png"']


def test_any_cut_of_a_list_has_the_same_files(images: Path) -> None:
    (images / "list.txt").write_text("".join(f"{images}/{number}.png\n" for number in range(5)))
    size = (images / "list.txt").stat().st_size
    for cut in range(size + 1):
        keys = [
            key for part in ((0, cut), (cut, size)) for batch in read(images / "list.txt", SPEC, *part) for key in batch.keys.to_pylist()
        ]
        assert keys == [f'"{images}/{number}.png"' for number in range(5)]


def test_shapes_and_jobs_that_can_not_take_files(images: Path) -> None:
    (images / "list.txt").write_text(f"{images}/1.png\n")
    for dims, shape in (((None,), (1,)), ((None, 1), (1, 1)), ((), (1,))):
        (batch,) = read(images / "list.txt", RowSpec(signature(*dims)))
        assert batch.columns["image"].shape == shape
    assert why_not(SPEC, "list.txt") is None
    assert "float32" in (why_not(RowSpec(signature(None, dtype="float32")), "list.txt") or "")
    assert "--key_field" in (why_not(RowSpec(signature(None), key_fields=("id",)), "list.txt") or "")
    (batch,) = read(images / "list.txt", RowSpec(signature(None), key_fields=("id",)))
    assert (len(batch), [row.code for row in batch.failed]) == (0, [Code.INPUT_MISSING])


def test_a_job_on_a_list(models: Models, images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{images}/*.png\n{images}/none.png\n")
    out = tmp_path / "out"
    flags = {"model": models.get("text_length"), "input": tmp_path / "list.txt", "input_format": "file-list", "max_error_ratio": 0.5}
    assert run(out, **flags, passthrough_fields="*") == 0
    assert check_output(out)["counts"] == {"read": 7, "predicted": 6, "failed": 1}
    sizes = {str(path): path.stat().st_size for path in images.iterdir()}
    assert {row["key"]: row["prediction"] for row in lines(out)} == sizes
    (failed,) = lines(out, "prediction.errors")
    assert (failed["code"], failed["stage"], failed["key"], failed["instance"]) == ("FILE_NOT_FOUND", "read", *[f"{images}/none.png"] * 2)
    assert run(tmp_path / "vertex", **flags, output_style="vertex") == 0
    assert {row["instance"] for row in lines(tmp_path / "vertex")} == set(sizes)


@pytest.mark.parametrize(
    ("lists", "duplicated"),
    [
        (("0.png\n1.png\n0.png\n",), 1),
        (("0.png\n1.png\n", "2.png\n1.png\n0.png\n"), 2),
        (("0.png\n./0.png\n{images}/0.png\n",), 1),
        (("[01].png\n{images}/../images/1.png\n",), 1),
        (("link.png\n1.png\n2.png\n",), 1),
        (("none.png\n0.png\nnone.png\n",), 1),
        (("0.png\n1.png\n", "2.png\n3.png\n"), 0),
    ],
)
def test_a_file_that_lists_name_twice_is_a_key_twice(
    models: Models,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lists: tuple[str, ...],
    duplicated: int,
) -> None:
    """In one list or in several, in one spelling or in two: the gate refuses it and names it, or both are published if that is allowed."""
    monkeypatch.chdir(images)
    (images / "link.png").symlink_to("1.png")
    for number, text in enumerate(lists):
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / f"{number}.txt").write_text(text.replace("{images}", str(images)))
    out = tmp_path / "out"
    flags = {"model": models.get("text_length"), "input": tmp_path / "lists", "input_format": "file-list", "max_error_ratio": 1}
    assert run(out, **flags) == (3 if duplicated else 0)
    if not duplicated:
        assert check_output(out)["keys"] == {"fields": [], "duplicated": 0, "listed": []}
        return
    assert "occur more than once, such as" in capsys.readouterr().out
    assert run(out, **flags, duplicate_keys="allow") == 0
    report = check_output(out)
    assert report["keys"]["duplicated"] == duplicated
    assert len(report["keys"]["listed"]) >= 2 * duplicated
    assert report["counts"]["read"] == sum(len(text.splitlines()) for text in lists) + lists[0].startswith("[01]")


def test_files_whose_names_are_not_utf8_have_keys_of_their_own(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    names = [b"\xff.png", b"\\xff.png", b"\\x5cxff.png", b"\\\\xff.png"]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(name)
    (images / "list.txt").write_bytes(b"\n".join(names))
    keys = [json.loads(key) for batch in read(images / "list.txt") for key in batch.keys.to_pylist()]
    assert keys[0] == "\\xff.png"
    assert len({*keys}) == 4
