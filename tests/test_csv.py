"""CSV → columns, keys and failed rows: what Python's csv module and JSON say, whatever the quoting, the cut and the neighbours."""

from __future__ import annotations

import base64
import csv
import dataclasses
import gzip
import io
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jobs import check_output, lines, manifest, run
from saved_models import Models

from transforms.convert import from_json
from transforms.elements import columns
from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange
from transforms.formats.blocks import DamagedFileError
from transforms.formats.catalog import FORMATS, format_of
from transforms.formats.csv import rows as csv_rows
from transforms.formats.csv.checks import holds_quote, impossible_inputs, missing_columns
from transforms.formats.csv.reader import CsvReader, RowParser
from transforms.formats.csv.rows import inside
from transforms.formats.empty_batch import empty_batch
from transforms.formats.splitting import split_file
from transforms.rows.codes import Code
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits
from transforms.specs.signature import Signature, TensorSpec
from transforms.storage.files import FoundFile

MANY = settings(deadline=None, derandomize=True, max_examples=300, suppress_health_check=list(HealthCheck))


def signature(**inputs: tuple[str, tuple[int | None, ...] | None]) -> Signature:
    specs = tuple(TensorSpec(name, f"{name}:0", dtype, shape) for name, (dtype, shape) in inputs.items())
    return Signature("serving_default", ("serve",), specs, (TensorSpec("y", "y:0", "float32", (None,)),))


TEXTS = signature(a=("string", (None,)), b=("string", (None,)))


def read(path: Path, spec: RowSpec, start: int = 0, stop: int | None = None) -> list[InstanceBatch]:
    file_range = FileRange(str(path), start, stop, path.stat().st_size, path.name)
    return list(CsvReader(spec).read(file_range))


def rows_of(batches: list[InstanceBatch]) -> dict[int, Any]:
    """What became of each row, by its offset; rows come in the order of the file."""
    found: dict[int, Any] = {}
    for batch in batches:
        assert list(batch.offsets) == sorted(batch.offsets)
        assert [row.offset for row in batch.failed] == sorted(row.offset for row in batch.failed)
        for number in range(len(batch)):
            cells = {}
            for name, column in batch.columns.items():
                cell = column.rows[number] if isinstance(column, columns.Ragged) else column[number]
                cells[name] = cell if isinstance(cell, str) else np.asarray(cell).tolist()
            passed = {name: texts[number].as_py() for name, texts in batch.passthrough.items()}
            assert int(batch.offsets[number]) not in found
            found[int(batch.offsets[number])] = (cells, batch.keys[number].as_py(), passed, json.loads(batch.rows[number]))
        for row in batch.failed:
            assert row.offset not in found
            found[row.offset] = (row.code, row.message, row.key, json.loads(row.instance))
    return found


def parse(data: bytes, spec: RowSpec, folder: Path) -> dict[int, Any]:
    path = folder / "rows.csv"
    path.write_bytes(data)
    return rows_of(read(path, spec))


def in_order(found: dict[int, Any]) -> list[Any]:
    return [found[offset] for offset in sorted(found)]


# --- text, as Python's csv module writes it -------------------------------------------------------------------------------

CELLS = st.text(st.one_of(st.sampled_from('",\n\r; \t\0\\abé\u2028\ufeff😀'), st.characters(codec="utf-8")), max_size=8)
TABLES = st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=12))


@MANY
@given(TABLES, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]), st.booleans(), st.integers(1, 60))
def test_text_comes_out_as_the_csv_module_put_it_in(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], quoting: int, windows: bool, block_bytes: int
) -> None:
    width = len(table[0]) if table else 2
    names = ["a", "b", "k é, ", 'c "'][:width]
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator="\r\n")  # so that it quotes both, \r and \n
    writer.writerows([names, *table])
    content = text.getvalue() if windows else rewritten(names, table, quoting)
    keyed = {"key_fields": (names[2],)} if width > 2 else {}
    spec = RowSpec(TEXTS, passthrough_fields=("*",), limits=Limits(block_bytes=block_bytes), **keyed)
    found = in_order(parse(content.encode(), spec, tmp_path_factory.getbasetemp()))
    assert len(found) == len(table)
    for row, (cells, key, passed, instance) in zip(table, found, strict=True):
        whole = dict(zip(names, row, strict=True))
        assert cells == {"a": row[0], "b": row[1]}
        assert instance == whole
        if keyed:
            assert json.loads(key) == row[2]
        assert json.loads("{" + passed["*"] + "}") == {
            name: value for name, value in whole.items() if name not in keyed.get("key_fields", ())
        }


def rewritten(names: list[str], table: list[list[str]], quoting: int) -> str:
    """The same with lines that end in ``\\n``; every cell that holds a line end of either kind is quoted."""
    text = io.StringIO()
    for row in [names, *table]:
        must = quoting != csv.QUOTE_MINIMAL
        text.write(",".join('"' + cell.replace('"', '""') + '"' if must or re.search('[",\r\n]', cell) else cell for cell in row) + "\n")
    return text.getvalue()


# --- numbers, as JSON has them --------------------------------------------------------------------------------------------

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "uint64", "int4", "bool")
ODD = (
    "", " ", "1", "-1", "+1", " 1", "1 ", "\t1", "01", "-01", "00", "-0", "0", "0x1F", "0X1f", "1.", ".5", "-.5", "1.e3", "1.E3", "1e3",
    "1E+3", "1e", "nan", "NaN", "-nan", "inf", "-inf", "Infinity", "NA", "null", "None", "true", "false", "True", "TRUE", "t", "tree",
    "fives", " true", "1e400", "-1e400", "1e-400", "1e39", "65520", "255", "256", "-8", "8", "127", "128", "2147483648", "3.5e38",
    "9007199254740993", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "18446744073709551615", "18446744073709551616",
    "1_000", "1,000", "１", "1.5", "1.0", "-0.0", "1d", "0.1", "16777217", "1.00000017881393432617187499", "--1", "1-1", "12:30", "-", ".",
    "1.5.2", "0e0", "1\r", '"1"', "\ufeff1", "1\0",
)  # fmt: skip
NUMBER_CELLS = st.one_of(
    st.sampled_from(ODD),
    st.integers(-(2**65), 2**65).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?\d{0,3}\.?\d{0,3}([eE][+-]?\d{0,3})?", fullmatch=True),
)


def verdict(dtype: str, cell: str) -> Any:
    """The value a cell has, or the code of its failure, by Python's own numbers and ``json``."""
    if cell == "":
        return Code.NULL_VALUE
    try:
        value = json.loads(cell, parse_constant=lambda _: None) if cell == cell.strip(" \t\r\n") else None
    except ValueError:
        value = None
    if dtype == "bool":
        return value if isinstance(value, bool) else Code.WRONG_TYPE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Code.WRONG_TYPE
    if "int" not in dtype:
        cast = from_json.numpy_dtype(dtype)
        try:
            with np.errstate(over="ignore"):
                number = float(np.array(float(value)).astype(cast).astype(np.float64))
        except OverflowError:
            return Code.OUT_OF_RANGE
        return Code.OUT_OF_RANGE if math.isinf(number) else number
    if isinstance(value, float):
        return Code.OUT_OF_RANGE if math.isinf(value) else Code.WRONG_TYPE
    bits = int(re.sub(r"\D", "", dtype))
    low, high = (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return value if low <= value <= high else Code.OUT_OF_RANGE


def check_numbers(dtype: str, cells: list[str], shape: tuple[int | None, ...] | None, quote: bool, folder: Path) -> None:
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\r\n", quoting=quoting).writerows(
        [["s", "x", "id"], *([f"t.e{n}", cell, n] for n, cell in enumerate(cells))]
    )
    spec = RowSpec(signature(x=(dtype, shape), s=("string", shape and shape[:1])), key_fields=("id",), passthrough_fields=("x",))
    found = in_order(parse(text.getvalue().encode(), spec, folder))
    assert len(found) == len(cells)
    for number, (cell, row) in enumerate(zip(cells, found, strict=True)):
        expected = verdict(dtype, cell)
        if isinstance(expected, Code):
            assert (row[0], row[2]) == (expected, json.dumps(str(number)).encode()), (cell, row)
            assert "'x'" in row[1]
        else:
            value = np.asarray(row[0]["x"]).reshape(-1).tolist()
            assert value == [expected], (cell, row)
            assert math.copysign(1, value[0]) == math.copysign(1, expected)
            assert (row[1], row[2]["x"], row[0]["s"]) == (f'"{number}"', cell, f"t.e{number}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(None,), (None, 1), None, (4,)])
@pytest.mark.parametrize("quote", [False, True])
def test_every_odd_number_among_others_and_alone(dtype: str, shape: tuple[int | None, ...] | None, quote: bool, tmp_path: Path) -> None:
    check_numbers(dtype, list(ODD), shape, quote, tmp_path)
    check_numbers(dtype, [cell for cell in ODD if not isinstance(verdict(dtype, cell), Code)], shape, quote, tmp_path)
    for cell in ODD if shape == (None,) and not quote else ():
        check_numbers(dtype, [cell], shape, quote, tmp_path)


@MANY
@given(st.sampled_from(DTYPES), st.lists(NUMBER_CELLS, max_size=12), st.booleans())
def test_numbers_are_those_of_json(tmp_path_factory: pytest.TempPathFactory, dtype: str, cells: list[str], quote: bool) -> None:
    check_numbers(dtype, cells, (None,), quote, tmp_path_factory.getbasetemp())


def test_a_clean_block_is_parsed_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: Any) -> None:
        raise AssertionError("rows were looked at one by one")

    monkeypatch.setattr(RowParser, "make_other_batch", look)
    spec = RowSpec(signature(x=("float32", (None,)), n=("int64", (None, 1)), b=("bool", (None,)), s=("string", (None,))), ("id",), ("*",))
    for end in ("\n", "\r\n"):
        for quoted in ("s", '"s, ""s""' + end + 's"'):
            rows = [f"id,x,n,b,s{end}", *(f"{n},{n}.5,-{n},true,{quoted if n else 'é'}{end}{end * (n == 3)}" for n in range(1, 51))]
            found = in_order(parse("".join(rows).encode(), spec, tmp_path))
            assert [row[0]["x"] for row in found] == [n + 0.5 for n in range(1, 51)]
            assert [row[0]["n"] for row in found] == [[-n] for n in range(1, 51)]


# --- lines that are no rows -----------------------------------------------------------------------------------------------


def test_a_bad_line_costs_itself_alone(tmp_path: Path) -> None:
    data = (
        b'a,b\n1,2\n3\n4,5,6\n"open,7\n8,9\n10,1"1\n"12"x,13\n14,"15 ""\n16"\n\n\r\n17,\xff\n18,"19"\r\n'
        b'20,"21"",22\n23,24\n"25","26\n27,28\n'
    )  # fmt: skip
    found = parse(data, RowSpec(TEXTS), tmp_path)
    texts = {offset: data[offset:].split(b"\n")[0].rstrip(b"\r").decode("latin-1") for offset in found}
    good = [(row[0]["a"], row[0]["b"]) for row in in_order(found) if not isinstance(row[0], Code)]
    assert good == [("1", "2"), ("8", "9"), ("14", '15 "\n16'), ("18", "19"), ("23", "24"), ("27", "28")]
    failed = {texts[offset]: (row[0], row[3]) for offset, row in found.items() if isinstance(row[0], Code)}
    assert failed.pop("17,ÿ") == (Code.NOT_UTF8, {"b64": base64.b64encode(b"17,\xff").decode()})
    assert failed == {text: (Code.NOT_CSV, text) for text in ("3", "4,5,6", '"open,7', '10,1"1', '"12"x,13', '20,"21"",22', '"25","26')}
    messages = {texts[offset]: row[1] for offset, row in found.items() if isinstance(row[0], Code)}
    assert messages["3"] == "the row has 1 fields, the header 2"
    assert "quote" in messages['"open,7']


@MANY
@given(
    st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"x", b"\r", b'""', b"\xff", b"1"]), max_size=40),
    st.integers(1, 30),
    st.integers(1, 30),
)
def test_any_bytes_are_rows_or_failed_rows_whatever_the_block(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], block_bytes: int, scan_bytes: int
) -> None:
    data = b"a,b\n" + b"".join(pieces)
    spec = RowSpec(signature(a=("float32", (None,)), b=("string", (None,))))
    whole = parse(data, spec, tmp_path_factory.getbasetemp())
    small = dataclasses.replace(spec, limits=Limits(block_bytes=block_bytes, scan_bytes=scan_bytes))
    assert parse(data, small, tmp_path_factory.getbasetemp()) == whole
    if b'"' not in data:
        offsets = itertools.accumulate([len(line) + 1 for line in data.split(b"\n")], initial=0)
        filled = [offset for offset, line in zip(offsets, data.split(b"\n"), strict=False) if line not in (b"", b"\r")]
        assert sorted(whole) == filled[1:]
    else:
        assert set(whole) <= {0, *(place + 1 for place, byte in enumerate(data) if byte == 10)}


@MANY
@given(st.lists(st.sampled_from(["1,x", "2.5,é", "", "\r", "NA,x", "3", "4,5,6", "7, "]), max_size=15), st.data())
def test_the_parts_of_a_file_have_the_rows_of_the_whole(tmp_path_factory: pytest.TempPathFactory, rows: list[str], data: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.csv"
    content = "\n".join(
        [*data.draw(st.sampled_from([["a,b"], ["", "a,b"], ["\ufeffa,b\r"]])), *rows, *[""] * data.draw(st.integers(0, 1))]
    ).encode()
    path.write_bytes(content)
    spec = RowSpec(signature(a=("float32", (None,)), b=("string", (None,))), passthrough_fields=("b",))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    parts = [read(path, spec, *pair) for pair in itertools.pairwise([0, *cuts, len(content)])]
    assert rows_of([batch for part in parts for batch in part]) == rows_of(read(path, spec))


@MANY
@given(
    st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"x", b"\r", b'""', b'"x"']), max_size=20),
    st.booleans(),
    st.sampled_from([1, 2, 3, 64, 1000]),
)
@example([b'x"x"', b',"'], False, 1000)  # the last quote opens a field, and ends nothing
def test_rows_found_at_once_are_those_found_one_by_one(pieces: list[bytes], last: bool, scan_bytes: int) -> None:
    data = b"".join(pieces)
    found, used = csv_rows.find_rows(data, 7, last, Limits(scan_bytes=scan_bytes))
    expected, its_used = csv_rows.scan(data, 7, last)
    assert list(found.texts) == list(expected.texts)
    assert (found.texts.starts.tolist(), found.malformed.tolist(), used) == (
        expected.texts.starts.tolist(),
        expected.malformed.tolist(),
        its_used,
    )
    if found.separators is not None:
        parts = csv_rows.adjoin(found.texts, found.separators)
        assert len(parts[0]) == len(found.texts)
        ends = {int(start) + end for start, text in zip(parts[0].starts, parts[0], strict=True) for end in field_ends(text)}
        assert ends <= {*parts[1].tolist(), *parts[0].stops.tolist()}


def field_ends(text: bytes) -> list[int]:
    """Where the fields of a well-formed row end, by its fields' lengths as they stand."""
    ends, place = [], -1
    while place < len(text):
        found = csv_rows.FIELD.match(text, place + 1)
        assert found is not None
        place = found.end()
        ends.append(place)
    return ends


def test_a_quote_that_never_closes_is_given_up_after_a_while(tmp_path: Path) -> None:
    data = b'a,b\n1,"open\n' + b"".join(b"%d,x\n" % n for n in range(1000)) + b'7,"y\nz"\n'
    found = in_order(parse(data, RowSpec(TEXTS, limits=Limits(block_bytes=64, row_bytes=500)), tmp_path))
    assert found[0][:2] == (Code.NOT_CSV, found[0][1])
    assert [row[0]["a"] for row in found[1:]] == [*map(str, range(1000)), "7"]


def test_a_row_too_long(tmp_path: Path) -> None:
    data = b"a,b\n1,2\n" + b"x" * 2000 + b",y\n3,4\n"
    found = in_order(parse(data, RowSpec(TEXTS, limits=Limits(block_bytes=64, row_bytes=300)), tmp_path))
    assert [row[0] if isinstance(row[0], Code) else row[0]["a"] for row in found] == ["1", Code.ROW_TOO_LONG, "3"]


# --- headers --------------------------------------------------------------------------------------------------------------


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    for header, row in (("b,a", "2,1"), ('"b","a"', '"2",1'), ("z,a,y,b", "0,1,0,2"), ("\ufeffa,b", "1,2")):
        (found,) = in_order(parse(f"{header}\r\n{row}\r\n".encode(), RowSpec(TEXTS), tmp_path))
        assert found[0] == {"a": "1", "b": "2"}


def test_a_header_without_an_input_or_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,a\n1,x\n2\n")
    spec = RowSpec(TEXTS, key_fields=("id",))
    found = in_order(rows_of(read(path, spec)))
    assert found[0] == (Code.INPUT_MISSING, "the header lacks the input 'b'; it has 'id', 'a'", b'"1"', {"id": "1", "a": "x"})
    assert found[1][0] == Code.NOT_CSV
    assert missing_columns(str(path), RowSpec(TEXTS, key_fields=("id", "who"))) == ["b", "who"]
    lone = RowSpec(signature(text=("string", (None,))))  # its raw line is for JSON-lines only
    assert in_order(rows_of(read(path, lone)))[0][0] == Code.INPUT_MISSING
    (no_key,) = in_order(parse(b"a,b\n1,2\n", spec, tmp_path))
    assert no_key[0] == Code.KEY_MISSING
    assert missing_columns(str(path), RowSpec(TEXTS)) == []
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbfa,c\n1,2\n"))
    assert missing_columns(str(packed), RowSpec(TEXTS)) == ["b"]


def test_files_without_rows_or_header(tmp_path: Path) -> None:
    for content in (b"", b"\n\r\n\n", b"\xef\xbb\xbf", b"a,b", b"a,b\r\n", b"\n\na,b\n"):
        assert parse(content, RowSpec(TEXTS), tmp_path) == {}
    for content in ("a,b\n1,2\n".encode("utf-16"), b'a,"b\n1,2\n', b'a",b\n1,2'):
        with pytest.raises(DamagedFileError, match="header"):
            parse(content, RowSpec(TEXTS), tmp_path)
        with pytest.raises(DamagedFileError, match="header"):
            missing_columns(str(tmp_path / "rows.csv"), RowSpec(TEXTS))
    batch = empty_batch(RowSpec(TEXTS, passthrough_fields=("c",)), FileRange("x.csv", 0, 0, 0, "x.csv"))
    assert (len(batch), batch.failed, len(batch.columns["a"]), len(batch.passthrough["c"])) == (0, [], 0, 0)


def test_inputs_that_csv_can_not_feed() -> None:
    shapes: dict[str, Any] = {"one": (None,), "ones": (None, 1, 1), "free": None, "scalar": ()}
    assert impossible_inputs(RowSpec(signature(**{name: ("float32", shape) for name, shape in shapes.items()}))) == []
    assert impossible_inputs(RowSpec(signature(a=("float32", (4,)), b=("string", (4, 1))))) == []
    spec = RowSpec(signature(v=("float32", (None, 3)), w=("string", (None, None)), c=("complex64", (None,)), x=("int8", (None,))))
    assert [tensor.name for tensor in impossible_inputs(spec)] == ["v", "w", "c"]


# --- files ----------------------------------------------------------------------------------------------------------------


def test_only_a_large_file_without_quotes_is_cut(tmp_path: Path) -> None:
    limits = Limits(split_bytes=1000)
    plain, quoted, small = (tmp_path / name for name in ("plain.csv", "quoted.CSV", "small.csv"))
    plain.write_bytes(b"a,b\n" + b"1,2\n" * 1000)
    quoted.write_bytes(b"a,b\n" + b"1,2\n" * 999 + b'1,"2"')
    small.write_bytes(b'a,b\n1,"2"\n')
    counts = {}
    for path in (plain, quoted, small):
        found = FoundFile(str(path), path.stat().st_size, path.name)
        ranges = list(split_file(found, format_of(str(path), None), limits))
        assert (ranges[0].start, ranges[-1].stop) == (0, found.size_bytes)
        counts[path.name] = len(ranges)
    assert counts == {"plain.csv": 4, "quoted.CSV": 1, "small.csv": 1}
    assert (holds_quote(str(plain)), holds_quote(str(quoted))) == (False, True)
    packed = list(split_file(FoundFile("a.csv.gz", 10**6, "a.csv.gz"), FORMATS["csv"], limits))
    assert [(file_range.start, file_range.stop) for file_range in packed] == [(0, None)]


def write_table(path: Path, rows: int) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["id", "s", "x"], *([f"k{n}", f'say "{n}",\n{n}' if n % 7 == 0 else "plain", n] for n in range(rows))]
        )
    return path


@pytest.mark.parametrize("quotes", [True, False])
def test_a_job_on_csv(models: Models, tmp_path: Path, quotes: bool) -> None:
    data = write_table(tmp_path / "rows.csv", 3000)
    if not quotes:
        data.write_text("id,s,x\n" + "".join(f"k{n},plain,{n}\n" for n in range(3000)))
    flags = {"model": models.get("two_outputs"), "input": data, "key_field": "id", "passthrough_fields": "s", "output_layout": "mirror"}
    assert run(tmp_path / "out", Limits(split_bytes=5000), **flags) == 0
    assert manifest(tmp_path / "out")["counts"] == {"read": 3000, "predicted": 3000, "failed": 0}
    (made,) = (tmp_path / "out").glob("rows*")
    got = [json.loads(line) for line in made.read_text().splitlines()]
    assert [row["key"] for row in got] == [f"k{n}" for n in range(3000)]
    assert [row["prediction"]["double"] for row in got] == [2 * n for n in range(3000)]
    assert got[7]["s"] == ('say "7",\n7' if quotes else "plain")


def test_failed_rows_corrected_are_input_for_a_second_run(models: Models, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"id,x,note\n1,1.5,good\n2,NA,bad\n3,,empty\n4,2\n")
    out = tmp_path / "out"
    assert run(out, model=models.get("half_plus_two"), input=tmp_path / "rows.csv", key_field="id", max_error_ratio=1) == 0
    assert lines(out) == [{"key": "1", "prediction": 2.75}]
    failed = {row["code"]: row for row in lines(out, "prediction.errors")}
    assert failed["NULL_VALUE"]["instance"] == {"id": "3", "x": None, "note": "empty"}
    assert failed["NOT_CSV"]["instance"] == "4,2"
    again = failed["WRONG_TYPE"]["instance"] | {"x": 4}
    (tmp_path / "again.jsonl").write_text(json.dumps(again) + "\n")
    assert run(tmp_path / "second", model=models.get("half_plus_two"), input=tmp_path / "again.jsonl", key_field="id") == 0
    assert lines(tmp_path / "second") == [{"key": "2", "prediction": 4.0}]


def test_a_truncated_file_keeps_the_rows_before_the_damage(models: Models, tmp_path: Path) -> None:
    packed = gzip.compress(b"x\n" + b"".join(b"%d\n" % n for n in range(200_000)))
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=tmp_path / "cut.csv.gz") == 3
    report = check_output(tmp_path / "out")
    assert report["counts"]["read"] > 50_000
    assert [row["code"] for row in lines(tmp_path / "out", "prediction.errors")] == ["FILE_DAMAGED"]


@given(marks=st.lists(st.booleans(), max_size=300))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_places_after_an_odd_number_of_quotes(marks: list[bool]) -> None:
    expected = [sum(marks[: place + 1]) % 2 == 1 for place in range(len(marks))]
    assert inside(np.array(marks, bool)).tolist() == expected
