"""Byte ranges → lines: each line once, whatever the borders, the block size and the damage."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transforms import plan_splits
from transforms.elements.splits import FileRange
from transforms.formats import splitting
from transforms.formats.blocks import Block, DamagedFileError, compression_of, read_blocks
from transforms.formats.catalog import FORMATS
from transforms.formats.jsonl.reader import find_lines
from transforms.specs.limits import Limits

BOM = b"\xef\xbb\xbf"
COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstd.compress}
ANY = settings(deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def expected_lines(content: bytes) -> list[tuple[int, bytes]]:
    """Offset and text of each line that is not empty, found a byte at a time."""
    offset = 3 if content.startswith(BOM) else 0
    lines = []
    for line in io.BytesIO(content[offset:]):
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        if text:
            lines.append((offset, text))
        offset += len(line)
    return lines


def found_lines(block: Block) -> list[tuple[int, bytes]]:
    starts, stops = find_lines(block.data, keep_space=True)
    return [(block.offset + int(start), block.data[start:stop]) for start, stop in zip(starts, stops, strict=True)]


def read(path: Path, start: int = 0, stop: int | None = None, block_bytes: int = 4 << 20) -> list[tuple[int, bytes]]:
    file_range = FileRange(str(path), start, stop, 0, path.name)
    return [line for block in read_blocks(file_range, Limits(block_bytes=block_bytes)) for line in found_lines(block)]


def read_until_damage(path: Path, block_bytes: int = 4 << 20) -> tuple[list[tuple[int, bytes]], DamagedFileError]:
    lines: list[tuple[int, bytes]] = []
    try:
        for block in read_blocks(FileRange(str(path), 0, None, 0, path.name), Limits(block_bytes=block_bytes)):
            lines += found_lines(block)
    except DamagedFileError as damage:
        return lines, damage
    raise AssertionError(f"{path.name} was read to its end, {len(lines)} lines, without a word of damage")


CONTENT = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"bcd", b"\xff", b"\x00", BOM, b"e" * 40]), max_size=40).map(b"".join)


@ANY
@given(content=CONTENT, cuts=st.lists(st.integers(0, 300), max_size=5), size=st.integers(4, 50), with_mark=st.booleans())
def test_each_line_is_in_one_range_at_its_offset(tmp_path: Path, content: bytes, cuts: list[int], size: int, with_mark: bool) -> None:
    content = BOM + content if with_mark else content
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    borders = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = [line for start, stop in itertools.pairwise(borders) for line in read(path, start, stop, size)]
    blank = [line for line in expected_lines(content) if not line[1].strip(b" \t\r")]
    assert pieces == [line for line in expected_lines(content) if line not in blank]


def test_every_border_of_one_file(tmp_path: Path) -> None:
    content = BOM + b'{"x":1}\r\n\n\n{"x":2}\n' + b'{"x":"' + b"y" * 30 + b'"}\n{"x":4}'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert [offset for offset, _ in expected_lines(content)] == [3, 14, 22, 61]
    for size in (4, 7, 1 << 20):
        for border in range(1, len(content)):
            assert read(path, 0, border, size) + read(path, border, len(content), size) == expected_lines(content)


@ANY
@given(lengths=st.lists(st.integers(0, 120), max_size=12), cut=st.integers(0, 500), size=st.integers(4, 60))
def test_a_line_too_long_costs_that_line(tmp_path: Path, lengths: list[int], cut: int, size: int) -> None:
    """Lines up to the limit come whole, lines beyond limit and a block come as their beginning; none is lost between them."""
    limits = Limits(block_bytes=size, row_bytes=40, shown_bytes=8)
    content = b"".join(bytes([97 + number]) * length + b"\n" for number, length in enumerate(lengths))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    cut = min(cut, len(content))
    whole, cut_off = [], []
    for start, stop in ((0, cut), (cut, len(content))):
        for block in read_blocks(FileRange(str(path), start, stop, 0, ""), limits):
            if block.too_long:
                cut_off.append((block.offset, block.data))
            else:
                whole += found_lines(block)
    lines = expected_lines(content)
    assert sorted([offset for offset, _ in whole] + [offset for offset, _ in cut_off]) == [offset for offset, _ in lines]
    assert set(whole) <= set(lines)
    texts = dict(lines)
    assert all(len(data) <= 8 and len(texts[offset]) + 1 > 40 and texts[offset].startswith(data) for offset, data in cut_off)


def test_rows_before_a_line_too_long_are_kept_in_a_range_that_begins_inside_the_file(tmp_path: Path) -> None:
    limits = Limits(block_bytes=100, row_bytes=70_000)
    content = b"0\n1\n2\n" + b"x" * 200_000 + b"\n3\n"
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    found = list(read_blocks(FileRange(str(path), 1, len(content), 0, ""), limits))
    assert [line for block in found if not block.too_long for line in found_lines(block)] == [(2, b"1"), (4, b"2"), (200_007, b"3")]
    assert [(block.offset, block.data[:3]) for block in found if block.too_long] == [(6, b"xxx")]


@pytest.mark.parametrize("content", [b"", BOM, b"\n", b"\r\n\n", BOM + b"\n", b" \n\t\r\n"])
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.bz2", "jsonl.zst"])
def test_a_file_without_rows(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(COMPRESS.get(ending.rsplit(".")[-1], bytes)(content))
    assert read(path) == []


# --- compressed files ------------------------------------------------------------------------------------------------------

LINES = b"".join(b'{"x": %d, "y": "%s"}\r\n' % (number, b"abc" * (number % 7)) for number in range(5000))


@pytest.mark.parametrize("ending", list(COMPRESS))
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("block_bytes", [1000, 4 << 20])
def test_compressed_files_of_one_or_more_streams(tmp_path: Path, ending: str, streams: int, block_bytes: int) -> None:
    third = len(LINES) // streams + 1  # a stream may end in the middle of a line
    path = tmp_path / f"rows.jsonl.{ending.upper()}"
    path.write_bytes(b"".join(COMPRESS[ending](LINES[start : start + third]) for start in range(0, len(LINES), third)))
    assert read(path, block_bytes=block_bytes) == expected_lines(LINES)


@pytest.mark.parametrize("ending", list(COMPRESS))
@pytest.mark.parametrize("block_bytes", [1000, 4 << 20])
def test_a_truncated_file_gives_its_rows_and_then_the_damage(tmp_path: Path, ending: str, block_bytes: int) -> None:
    packed = COMPRESS[ending](LINES)
    path = tmp_path / f"rows.jsonl.{ending}"
    all_lines = expected_lines(LINES)
    for kept in (len(packed) - 1, len(packed) * 2 // 3, 20, 3):
        path.write_bytes(packed[:kept])
        lines, damage = read_until_damage(path, block_bytes)
        assert lines == all_lines[: len(lines)]
        assert 0 <= damage.offset <= len(LINES)
        read_bytes = lines[-1][0] + len(lines[-1][1]) if lines else 0
        assert read_bytes <= damage.offset <= read_bytes + 100, "the damage is told near the last row that came"
        if ending == "gz" and kept == len(packed) - 1:
            assert lines == all_lines, "only the check sum is missing"


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_a_stream_that_is_cut_off_or_garbage_after_a_good_one_is_damage(tmp_path: Path, ending: str) -> None:
    """bz2.BZ2File would end without a word there, and the rows of all later streams would be lost."""
    good = COMPRESS[ending](LINES)
    path = tmp_path / f"rows.jsonl.{ending}"
    for rest in (good[:12], b"garbage that is no stream", good[:4] + b"?" * 300):
        path.write_bytes(good + rest)
        lines, damage = read_until_damage(path)
        assert lines == expected_lines(LINES)
        assert damage.offset == len(LINES)


@pytest.mark.parametrize("ending", ["gz", "bz2"])
def test_zeros_between_and_after_streams_are_padding(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.jsonl.{ending}"
    for zeros in (b"", bytes(1), bytes(200_000)):
        path.write_bytes(COMPRESS[ending](LINES) + zeros + COMPRESS[ending](b"[7]\n") + zeros)
        assert read(path) == [*expected_lines(LINES), (len(LINES), b"[7]")]


@pytest.mark.parametrize("ending", ["gz", "bz2"])
def test_a_file_of_no_bytes_holds_no_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.jsonl.{ending}"
    path.write_bytes(b"")
    assert read(path) == []


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_a_flipped_byte_is_damage(tmp_path: Path, ending: str) -> None:
    packed = bytearray(COMPRESS[ending](LINES))
    path = tmp_path / f"rows.jsonl.{ending}"
    all_lines = expected_lines(LINES)
    for place in range(len(packed) // 3, len(packed), len(packed) // 5):
        broken = bytearray(packed)
        broken[place] ^= 0x55
        path.write_bytes(broken)
        if ending == "zst":  # zstd.compress writes no check sum: a flipped byte may change rows, never end them silently
            try:
                lines = read(path)
            except DamagedFileError:
                continue
            assert len(lines) == len(all_lines)
        else:
            lines, _ = read_until_damage(path)
            assert len(lines) <= len(all_lines)


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_a_file_that_is_not_compressed_as_its_name_says(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.jsonl.{ending}"
    path.write_bytes(b'{"x": 1}\n{"x": 2}\n')
    lines, damage = read_until_damage(path)
    assert lines == []
    assert damage.offset == 0


def test_damage_right_after_a_byte_order_mark_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(BOM)[:-8])
    lines, damage = read_until_damage(path)
    assert lines == []
    assert damage.offset == 3


def test_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.jsonl.gz")


def test_compression_is_told_by_the_last_extension() -> None:
    named = {"a.jsonl": None, "a.gz": "gzip", "b.jsonl.GZ": "gzip", "c.bz2": "bzip2", "d.json.zst": "zstd", "gz": None, "e.gz.json": None}
    assert {name: compression_of(name) for name in named} == named


# --- ranges of a file --------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=300)
@given(size=st.integers(0, 10_000), split_bytes=st.integers(1, 4000))
def test_ranges_cover_a_file_without_gap_or_overlap(size: int, split_bytes: int) -> None:
    file = plan_splits.FoundFile("a/rows.jsonl", size, "rows.jsonl")
    ranges = list(splitting.split_file(file, FORMATS["jsonl"], Limits(split_bytes=split_bytes)))
    covered = [place for file_range in ranges for place in range(file_range.start, file_range.stop or 0)]
    assert covered == list(range(size))
    assert sum(file_range.size_bytes for file_range in ranges) == size
    assert all(file_range.size_bytes <= 2 * split_bytes for file_range in ranges)
