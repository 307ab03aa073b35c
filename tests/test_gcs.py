"""gs:// for model, input, output and failed rows, and the file operations beneath."""

import bz2
import gzip
import io
import json
import os
import pickle
import tempfile

import numpy as np
import pytest

ROWS = [{"id": f"k{number:03d}", "x": number / 4} for number in range(120)]

REPORTED = ("report.html", "statistics.json")


def jsonl(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def expected(rows):
    y = np.float32(0.5) * np.array([row["x"] for row in rows], np.float32) + np.float32(2)
    return {row["id"]: float(value) for row, value in zip(rows, y, strict=True)}


@pytest.fixture(scope="module", autouse=True)
def model_copies(tmp_path_factory):
    """Keeps the copies that workers make of remote models among the files of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("worker")))
        yield


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    import tensorflow as tf

    class Line(tf.Module):
        def __init__(self):
            super().__init__()
            self.slope, self.offset = tf.Variable(0.5), tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def predict(self, x):
            return {"y": self.slope * x + self.offset}

    line = Line()
    folder = str(tmp_path_factory.mktemp("model") / "line")
    tf.saved_model.save(line, folder, signatures=line.predict)
    return folder


@pytest.fixture(scope="module")
def model(gcs, model_folder):
    return gcs.upload_folder(model_folder, f"{gcs.make_bucket()}/line")


@pytest.fixture
def bucket(gcs):
    return gcs.make_bucket()


def run(model, source, output, *flags):
    from pipeline.main import main

    return main(["run", f"--model={model}", f"--input={source}", f"--output={output}", "--key_field=id", *flags])


def lines(gcs, folder, kind="results"):
    names = [name for name in gcs.list(folder) if name.startswith(f"prediction.{kind}-")]
    return [json.loads(line) for name in names for line in gcs.read(f"{folder}/{name}").splitlines()]


def predictions(gcs, folder):
    rows = lines(gcs, folder)
    by_key = {row["key"]: row["prediction"] for row in rows}
    assert len(by_key) == len(rows)
    return by_key


def manifest(gcs, folder):
    return json.loads(gcs.read(f"{folder}/manifest.json"))


# --- jobs ------------------------------------------------------------------------------------------------------------------


def test_job_from_bucket_to_bucket(gcs, model, bucket):
    neighbour = gcs.write(f"{bucket}/out 1/prediction.results-00000-of-00001", b"of another run\n")
    gcs.write(f"{bucket}/in/rows [1] #?.jsonl", jsonl(ROWS))
    output = f"{bucket}/out [1]"
    assert run(model, f"{bucket}/in/rows [1] #?.jsonl", output) == 0
    assert predictions(gcs, output) == expected(ROWS)
    assert gcs.list(output) == sorted(["_SUCCESS", "manifest.json", "prediction.results-00000-of-00001", *REPORTED])
    assert gcs.read(f"{output}/_SUCCESS") == b""
    report = manifest(gcs, output)
    assert report["status"] == "done"
    assert report["counts"] == {"read": 120, "predicted": 120, "failed": 0}
    assert report["results"][0]["bytes"] == len(gcs.read(f"{output}/prediction.results-00000-of-00001"))
    assert gcs.read(neighbour) == b"of another run\n"


def test_large_object_is_read_in_ranges_and_leaves_no_stale_shard(gcs, model, bucket):
    pad = "x" * 2000
    rows = [{"id": f"k{number:05d}", "x": number / 2} for number in range(25_000)]
    source = gcs.write(f"{bucket}/large.jsonl", jsonl({**row, "pad": pad} for row in rows))
    assert run(model, source, f"{bucket}/out") == 0
    assert predictions(gcs, f"{bucket}/out") == expected(rows)
    ends = [f"prediction.results-0000{number}-of-00002" for number in (0, 1)]
    assert gcs.list(f"{bucket}/out") == sorted(["_SUCCESS", "manifest.json", *ends, *REPORTED])
    assert run(model, gcs.write(f"{bucket}/small.jsonl", jsonl(ROWS)), f"{bucket}/out") == 0
    assert predictions(gcs, f"{bucket}/out") == expected(ROWS)
    assert gcs.list(f"{bucket}/out") == sorted(
        ["_SUCCESS", "manifest.json", "prediction.results-00000-of-00001", "report.html", "statistics.json"]
    )


def test_highest_whole_version_of_a_model_in_a_folder_with_brackets(gcs, model_folder, bucket):
    models = f"{bucket}/models [v] *"
    for version in ("2", "10"):
        gcs.upload_folder(model_folder, f"{models}/line/{version}")
    gcs.write(f"{models}/line/11/variables/variables.index", b"still being copied")
    source = gcs.write(f"{bucket}/rows.jsonl", jsonl(ROWS))
    assert run(f"{models}/line/", source, f"{bucket}/out") == 0
    assert predictions(gcs, f"{bucket}/out") == expected(ROWS)
    assert manifest(gcs, f"{bucket}/out")["model"]["version"] == "10"


def test_mirrored_folder_with_failed_rows_in_another_bucket(gcs, model, bucket):
    errors = f"{gcs.make_bucket()}/failed"
    gcs.write(f"{bucket}/in/a b [1].jsonl", jsonl(ROWS[:40]) + b'{"id": "bad", "x": "text"}\n')
    gcs.write(f"{bucket}/in/deep/c.jsonl.gz", gzip.compress(jsonl(ROWS[40:])))
    gcs.write(f"{bucket}/in/_hidden.jsonl", b"not read")
    gcs.write(f"{bucket}/in/", b"")  # as the console makes a folder
    assert run(model, f"{bucket}/in", f"{bucket}/out", f"--errors={errors}", "--output_layout=mirror") == 0
    assert gcs.list(f"{bucket}/out") == sorted(
        ["_SUCCESS", "a b [1].jsonl", "deep/c.jsonl", "manifest.json", "report.html", "statistics.json"]
    )
    for name, rows in (("a b [1].jsonl", ROWS[:40]), ("deep/c.jsonl", ROWS[40:])):
        written = [json.loads(line) for line in gcs.read(f"{bucket}/out/{name}").splitlines()]
        assert written == [{"key": key, "prediction": value} for key, value in expected(rows).items()]
    assert gcs.list(errors) == ["prediction.errors-00000-of-00001", "prediction.errors_stats-00000-of-00001"]
    (failed,) = lines(gcs, errors, "errors")
    assert (failed["key"], failed["instance"]) == ("bad", {"id": "bad", "x": "text"})
    assert (failed["source"], failed["offset"]) == (f"{bucket}/in/a b [1].jsonl", len(jsonl(ROWS[:40])))
    assert manifest(gcs, f"{bucket}/out")["counts"] == {"read": 121, "predicted": 120, "failed": 1}


def test_shut_gate_publishes_failed_rows_only(gcs, model, bucket):
    source = gcs.write(f"{bucket}/rows.jsonl", jsonl(ROWS[:3]) + b"[]\n" * 3)
    assert run(model, source, f"{bucket}/out", f"--errors={bucket}/failed") == 3
    assert gcs.list(f"{bucket}/out") == sorted(["manifest.json", *REPORTED])
    assert len(lines(gcs, f"{bucket}/failed", "errors")) == 3
    report = manifest(gcs, f"{bucket}/out")
    assert (report["status"], report["counts"]) == ("failed", {"read": 6, "predicted": 3, "failed": 3})
    assert "max_error_ratio" in report["reason"]
    assert sorted(gcs.list(bucket))[0].startswith("failed/")  # and no staging


REFUSED = {
    "model": {"model": "{bucket}/no model"},
    "bucket of the model": {"model": "gs://no-such-bucket/line"},
    "input": {"source": "{bucket}/none*.jsonl"},
    "bucket of the input": {"source": "gs://no-such-bucket/rows.jsonl"},
    "bucket of the output": {"output": "gs://no-such-bucket/out"},
    "storage": {"source": "s3://bucket/rows.jsonl"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_missing_is_named_before_anything_starts(gcs, model, bucket, capsys, what):
    gcs.write(f"{bucket}/rows.jsonl", jsonl(ROWS))
    wrong = {flag: path.format(bucket=bucket) for flag, path in REFUSED[what].items()}
    assert run(**({"model": model, "source": f"{bucket}/rows.jsonl", "output": f"{bucket}/out"} | wrong)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert next(iter(wrong.values())) in message
    assert len(message) < 300
    assert gcs.list(bucket) == ["rows.jsonl"]


def test_object_compressed_by_the_storage_is_refused(gcs, model, bucket, capsys):
    source = gcs.write(f"{bucket}/rows.jsonl", gzip.compress(jsonl(ROWS)), encoding="gzip", kind="application/json")
    assert run(model, source, f"{bucket}/out") == 2
    assert f"{source}: is stored with Content-Encoding: gzip" in capsys.readouterr().err


def test_missing_bucket_of_failed_rows_is_named(gcs, model, bucket, capsys):
    source = gcs.write(f"{bucket}/rows.jsonl", jsonl(ROWS))
    assert run(model, source, f"{bucket}/out", "--errors=gs://no-such-bucket/errors") == 2
    assert "there is no bucket gs://no-such-bucket" in capsys.readouterr().err


# --- matching --------------------------------------------------------------------------------------------------------------

OBJECTS = (
    ".dot.jsonl",
    "_under.jsonl",
    "a.jsonl",
    "a1.jsonl",
    "a[1].jsonl",
    "b #?.jsonl.gz",
    "d [x]/e.jsonl",
    "d [x]/_f.jsonl",
    "d [x]/g/h.jsonl",
    "dx/i.jsonl",
    "d/",
)
MATCHES = {
    "a.jsonl": ["a.jsonl"],
    "a[1].jsonl": ["a[1].jsonl"],
    "a[12].jsonl": ["a1.jsonl"],
    "a[!x-z].jsonl": ["a1.jsonl"],
    "a*.jsonl": ["a.jsonl", "a1.jsonl", "a[1].jsonl"],
    "b #?.jsonl.gz": ["b #?.jsonl.gz"],
    "*.jsonl": ["_under.jsonl", "a.jsonl", "a1.jsonl", "a[1].jsonl"],
    ".*.jsonl": [".dot.jsonl"],
    "d [x]": ["e.jsonl", "g/h.jsonl"],
    "d [x]/": ["e.jsonl", "g/h.jsonl"],
    "d[ x]*/*.jsonl": ["d [x]/_f.jsonl", "d [x]/e.jsonl", "dx/i.jsonl"],
    "d*/**/*.jsonl": ["d [x]/_f.jsonl", "d [x]/e.jsonl", "d [x]/g/h.jsonl", "dx/i.jsonl"],
    "**/h.jsonl": ["d [x]/g/h.jsonl"],
    "nothing": [],
    "a": [],
    "": ["a.jsonl", "a1.jsonl", "a[1].jsonl", "b #?.jsonl.gz", "d [x]/e.jsonl", "d [x]/g/h.jsonl", "dx/i.jsonl"],
}


@pytest.fixture(scope="module")
def objects(gcs):
    bucket = gcs.make_bucket()
    for name in OBJECTS:
        gcs.write(f"{bucket}/{name}", name.encode())
    return bucket


@pytest.mark.parametrize("pattern", MATCHES)
def test_match_is_the_same_in_a_bucket_and_on_a_disk(objects, tmp_path, pattern):
    from transforms.storage import files

    for name in OBJECTS:
        if not name.endswith("/"):
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_bytes(name.encode())
    for root in (objects, str(tmp_path)):
        found = list(files.match(f"{root}/{pattern}"))
        assert sorted(file.relative for file in found) == MATCHES[pattern]
        assert [file.size_bytes for file in found] == [len(files.read_bytes(file.path)) for file in found]


def test_double_star_before_an_extension_goes_through_folders(objects):
    from transforms.storage import files

    found = [file.relative for file in files.match(f"{objects}/d**.jsonl")]
    assert found == []  # "d**" is "d*": one folder, as on a disk
    assert [file.relative for file in files.match(f"{objects}/dx/**.jsonl")] == ["i.jsonl"]
    assert [file.relative for file in files.match(f"{objects}/d [[]x]/**.jsonl")] == ["d [x]/_f.jsonl", "d [x]/e.jsonl", "d [x]/g/h.jsonl"]


def test_children_and_folder(objects):
    from transforms.storage import files

    names = [".dot.jsonl", "_under.jsonl", "a.jsonl", "a1.jsonl", "a[1].jsonl", "b #?.jsonl.gz", "d", "d [x]", "dx"]
    assert files.list_children(objects) == names
    assert files.list_children(f"{objects}/d [x]/") == ["_f.jsonl", "e.jsonl", "g"]
    assert files.list_children(f"{objects}/none") == []
    assert [file.relative for file in files.list_folder(f"{objects}/d [x]")] == ["_f.jsonl", "e.jsonl", "g/h.jsonl"]
    assert files.exists(f"{objects}/a[1].jsonl")
    assert not files.exists(f"{objects}/d [x]")


# --- reading, writing, renaming, deleting ----------------------------------------------------------------------------------


def test_reader_gives_any_range_as_a_file_would(gcs, bucket, monkeypatch):
    from transforms.storage import files
    from transforms.storage import gcs as storage

    monkeypatch.setattr(storage, "WINDOW_BYTES", 1000)
    content = np.random.default_rng(7).integers(0, 256, 5_300, np.uint8).tobytes()
    path = gcs.write(f"{bucket}/some [1].bin", content)
    with files.open_raw(path) as stream, io.BytesIO(content) as twin:
        for offset, whence, count in (
            (0, 0, 10),
            (999, 0, 2),
            (4_000, 0, 2_000),
            (-7, 2, -1),
            (0, 0, -1),
            (9_999, 0, 5),
            (100, 0, 100),
            (-150, 1, 70),
        ):
            assert stream.seek(offset, whence) == twin.seek(offset, whence)
            assert stream.read(count) == twin.read(count)
            assert stream.tell() == twin.tell()
        stream.seek(0)
        assert b"".join(iter(lambda: stream.read1(700), b"")) == content


def test_reader_asks_for_each_byte_once(gcs, bucket):
    from transforms.storage import files

    path = gcs.write(f"{bucket}/20MB", bytes(20 << 20))
    empty = gcs.write(f"{bucket}/empty", b"")
    before = len(gcs.requests("GET /download/"))
    with files.open_raw(path) as stream:
        assert sum(map(len, iter(lambda: stream.read1(4 << 20), b""))) == 20 << 20
    assert len(gcs.requests("GET /download/")) - before == 3  # windows of 8 MiB
    with files.open_raw(empty) as stream:
        assert stream.read() == b""
    assert len(gcs.requests("GET /download/")) - before == 3


def test_object_replaced_while_it_is_read_is_an_error(gcs, bucket, monkeypatch):
    from transforms.storage import files
    from transforms.storage import gcs as storage

    monkeypatch.setattr(storage, "WINDOW_BYTES", 1000)
    path = gcs.write(f"{bucket}/data.jsonl", b"old" * 1000)
    with files.open_raw(path) as stream:
        assert stream.read1(1000) == (b"old" * 1000)[:1000]
        gcs.write(path, b"new" * 1000)
        with pytest.raises(storage.StorageError, match=r"data\.jsonl") as caught:
            stream.read1(1000)
    assert caught.value.errno is not None  # what tells it from damaged data
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_object_replaced_between_open_and_the_first_read_is_an_error(gcs, bucket):
    from transforms.storage import files
    from transforms.storage import gcs as storage

    path = gcs.write(f"{bucket}/data.jsonl", b"old" * 1000)
    with files.open_raw(path) as stream:
        gcs.write(path, b"new" * 2000)
        with pytest.raises(storage.StorageError, match="was replaced or deleted while it was read"):
            stream.read()


def test_fewer_bytes_than_were_asked_for_are_an_error(gcs, bucket):
    from transforms.storage import files
    from transforms.storage import gcs as storage

    path = gcs.write(f"{bucket}/data.jsonl", b"row" * 1000)
    with (
        files.open_raw(path) as stream,
        gcs.stand_ins.faults("short", share=1),
        pytest.raises(storage.StorageError, match="1500 bytes were received for bytes 0 to 3000"),
    ):
        stream.read()


def test_compressed_objects_come_as_they_are_stored(gcs, bucket):
    from transforms.storage import files

    packed = gzip.compress(jsonl(ROWS))
    for kind in ("application/json", "application/gzip"):
        path = gcs.write(f"{bucket}/rows.jsonl.gz", packed, encoding="gzip", kind=kind)
        with files.open_raw(path) as stream:
            assert gzip.GzipFile(fileobj=stream).read() == jsonl(ROWS)
        assert files.read_bytes(path) == packed
    with files.open_raw(gcs.write(f"{bucket}/rows.jsonl.bz2", bz2.compress(jsonl(ROWS)))) as stream:
        assert bz2.BZ2File(stream).read() == jsonl(ROWS)


def test_written_object_appears_whole(gcs, bucket):
    from transforms.storage import files

    content = os.urandom(20 << 20)  # more than one request's
    with files.create(f"{bucket}/large [1]") as stream:
        for start in range(0, len(content), 3 << 20):
            stream.write(content[start : start + (3 << 20)])
        assert gcs.list(bucket) == []
    files.write_bytes(f"{bucket}/empty", b"")
    assert gcs.list(bucket) == ["empty", "large [1]"]
    assert gcs.read(f"{bucket}/large [1]") == content


def test_rename_and_delete_take_names_literally_and_go_by_batch(gcs, bucket):
    from transforms.storage import files

    pairs = [(f"{bucket}/s/{number} [1] #?%.txt", f"{bucket}/t/{number}") for number in range(130)]
    for number, (source, _) in enumerate(pairs):
        gcs.write(source, b"%d" % number)
    lookalike = gcs.write(f"{bucket}/s/7 1 #?%.txt", b"stays")
    gcs.write(f"{bucket}/t/7", b"is replaced")
    before = len(gcs.requests("POST /batch/"))
    files.rename(pairs)
    assert [line.split()[-1] for line in gcs.requests("POST /batch/")[before:]] == ["100", "100", "30", "30"]
    assert [gcs.read(f"{bucket}/t/{number}") for number in (7, 129)] == [b"7", b"129"]
    assert gcs.list(f"{bucket}/s") == ["7 1 #?%.txt"]
    odd = gcs.write(f"{bucket}/s/7 [1] #?%.txt", b"")
    files.delete([odd, f"{bucket}/s/gone"])
    assert gcs.read(lookalike) == b"stays"
    files.delete_folder(f"{bucket}/t")
    assert gcs.list(bucket) == ["s/7 1 #?%.txt"]


def test_renaming_what_is_gone_is_an_error(bucket):
    from transforms.storage import files
    from transforms.storage.gcs import StorageError

    with pytest.raises(StorageError, match="gone"):
        files.rename([(f"{bucket}/gone", f"{bucket}/there")])
