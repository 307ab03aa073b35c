"""Patterns → splits: formats by name, large files cut, small ones packed, each file once."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import apache_beam as beam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import plan_splits
from transforms.elements.splits import FileRange, Split
from transforms.formats import splitting
from transforms.formats.catalog import FORMATS, FormatError, format_of
from transforms.formats.splitting import split_file
from transforms.plan_splits import PlanSplits
from transforms.specs.job import InputSpec
from transforms.specs.limits import DEFAULT_LIMITS, Limits
from transforms.storage.files import FoundFile


@pytest.mark.parametrize(
    "path",
    [
        "a.jsonl",
        "a.ndjson",
        "a.json",
        "a.JSONL",
        "gs://b/c.d/a.jsonl",
        "a.jsonl.gz",
        "a.json.bz2",
        "a.ndjson.ZST",
        "a.b.c.jsonl",
        "a.csv.jsonl",
    ],
)
def test_formats_by_extension(path: str) -> None:
    assert format_of(path, None).name == "jsonl"


@pytest.mark.parametrize(
    "path", ["a", "a.txt", "a.gz", "a.txt.gz", "jsonl", "dir.jsonl/a", "a.jsonl.zip", "a.jsonl.gz.gz", "part-00000-of-00012", "a.jsonl~"]
)
def test_formats_that_no_name_tells(path: str) -> None:
    with pytest.raises(FormatError, match="give --input_format"):
        format_of(path, None)
    assert format_of(path, "jsonl").name == "jsonl"


def test_a_compressed_file_is_one_range_of_unknown_end() -> None:
    whole = FileRange("a.jsonl.gz", 0, None, 10**9, "a.jsonl.gz")
    assert list(split_file(FoundFile("a.jsonl.gz", 10**9, "a.jsonl.gz"), FORMATS["jsonl"], DEFAULT_LIMITS)) == [whole]


@pytest.mark.parametrize("size", [0, 1, 3, 31 << 20, 32 << 20, 48 << 20, (48 << 20) + 1, 10**9 + 7])
def test_a_plain_file_is_cut_without_gap(size: int) -> None:
    ranges = list(split_file(FoundFile("a.jsonl", size, "a.jsonl"), FORMATS["jsonl"], DEFAULT_LIMITS))
    assert ranges[0].start == 0
    assert ranges[-1].stop == size
    assert all(left.stop == right.start for left, right in itertools.pairwise(ranges))
    assert all(file_range.size_bytes == (file_range.stop or 0) - file_range.start for file_range in ranges)
    assert len(ranges) == 1 or all(16 << 20 <= file_range.size_bytes <= 64 << 20 for file_range in ranges), "as the design has it"


def test_small_files_are_packed_large_ones_cut_and_each_read_once(tmp_path: Path) -> None:
    sizes = {
        "a/1.jsonl": 10,
        "a/2.jsonl": 0,
        "a/3.jsonl.gz": 20,
        "b/4.jsonl": 2600,
        "b/5.jsonl": 400,
        "b/[6] ü.jsonl": 30,
        "a/_tmp.jsonl": 5,
        "b/.h.jsonl": 5,
    }
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    patterns = (str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/*/1.jsonl", f"{tmp_path}/b/[6] ü.jsonl")
    found = plan(InputSpec(patterns, limits=Limits(split_bytes=1000)), tmp_path / "_out")
    ranges = [file_range for split in found for file_range in split.ranges]
    assert len(ranges) == len(set(ranges))
    covered = {
        name: sorted((file_range.start, file_range.stop) for file_range in ranges if file_range.path == str(tmp_path / name))
        for name in sizes
    }
    assert covered == {
        "a/1.jsonl": [(0, 10)], "a/2.jsonl": [(0, 0)], "a/3.jsonl.gz": [(0, None)], "b/4.jsonl": [(0, 866), (866, 1733), (1733, 2600)],
        "b/5.jsonl": [(0, 400)], "b/[6] ü.jsonl": [(0, 30)], "a/_tmp.jsonl": [], "b/.h.jsonl": [],
    }  # fmt: skip
    assert all(len(split.ranges) == 1 for split in found if split.ranges[0].path.endswith("4.jsonl"))


def plan(spec: InputSpec, folder: Path) -> list[Split]:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        (
            pipeline
            | PlanSplits(spec)
            | beam.Map(lambda split: pickle.dumps(split).hex())
            | beam.io.WriteToText(f"{folder}/splits", num_shards=1)
        )
    (shard,) = folder.iterdir()
    return [pickle.loads(bytes.fromhex(line)) for line in shard.read_text().splitlines()]


def test_packing_ends_at_a_splits_size() -> None:
    packer = plan_splits.SplitFiles(InputSpec(("a",)))
    packer.start_bundle()
    small = DEFAULT_LIMITS.split_bytes // 4
    made = [split for number in range(10) for split in packer.process(FoundFile(f"{number}.jsonl", small, f"{number}.jsonl"))]
    made += [windowed.value for windowed in packer.finish_bundle()]
    assert [len(split.ranges) for split in made] == [4, 4, 2]
    assert [file_range.path for split in made for file_range in split.ranges] == [f"{number}.jsonl" for number in range(10)]
    assert made[1].key == ("4.jsonl", 0)


@given(st.lists(st.integers(0, 9)), st.integers(1, 20), st.integers(1, 5))
def test_a_group_ends_where_its_items_are_many_enough(sizes: list[int], most_bytes: int, most_items: int) -> None:
    made = list(splitting.groups(sizes, lambda size: size, splitting.Group(most_bytes, most_items)))
    assert [size for group in made for size in group] == sizes
    assert all(made)
    for group in made:
        assert sum(group[:-1]) < most_bytes
        assert len(group) <= most_items
    for group in made[:-1]:
        assert sum(group) >= most_bytes or len(group) == most_items
