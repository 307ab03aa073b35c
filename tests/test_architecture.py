"""The rooms of the project and the one direction in which they import each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "transforms")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}

# The rooms from the bottom up: a module imports from its own room or from those before it.
ROOMS: tuple[str, ...] = (
    "transforms.storage",
    "transforms.specs",
    "transforms.rows",
    "transforms.elements",
    "transforms.convert",
    "transforms.runtime",
    "transforms.model",
    "transforms.formats",
    "transforms.statistics",
    "transforms.compare",
    "transforms.accounts",
    "transforms.staging",
    "transforms.report",
    "transforms.output",
    "transforms.bigquery",
    "transforms.many",
    "transforms",  # the verbs, each a file
    "pipeline.process",
    "pipeline.flags",
    "pipeline.preflight",
    "pipeline.summary",
    "pipeline.check",
    "pipeline.dataflow",
    "pipeline.serve",
    "pipeline",
)

# The rooms in which the docstring of every function begins with an imperative verb.
IMPERATIVE_ROOMS: tuple[str, ...] = (
    "transforms.model",
    "transforms.runtime",
    "transforms.statistics",
    "transforms.compare",
    "transforms.accounts",
    "transforms.report",
    "transforms.storage",
    "transforms.staging",
    "transforms.output",
    "transforms.bigquery",
    "transforms.many",
    "transforms",
    "pipeline.process",
    "pipeline.check",
    "pipeline.dataflow",
    "pipeline.serve",
    "transforms.convert",
    "transforms.elements",
    "transforms.rows",
    "transforms.specs",
    "transforms.formats",
    "pipeline.flags",
    "pipeline.preflight",
    "pipeline.summary",
    "pipeline",
)  # fmt: skip
# The first word of a noun phrase or a clause, a verb in the third person ("Gives"), or no word at all.
NO_VERB = re.compile(
    r"(After|All|An?|At|Each|Every|For|From|How|If|In|It|Not?|Nothing|Of|On|One|Only|So|Some|That|The|Their|Those|To|Two)\b"
    r"|Wh(at|en|ere|ether|ich|ile|o|ose|y)\b|\w*[^\Ws]s\b|[^A-Z]"
)


def room_of(module: str) -> int:
    """The place of a module's room: the longest name that ``module`` begins with."""
    return max((len(room), number) for number, room in enumerate(ROOMS) if module == room or module.startswith(f"{room}."))[1]


def imports(module: str, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written out from the top"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name in MODULES} - {module}


def test_there_is_something_to_check() -> None:
    assert {"pipeline.main", "transforms.formats.jsonl.reader", "transforms.specs.signature"} <= set(MODULES)
    assert own_imports("pipeline.graph") >= {"transforms.predict", "transforms.specs.run"}


@pytest.mark.parametrize("module", [module for module in MODULES if not module.endswith("__init__")])
def test_imports_run_one_way(module: str) -> None:
    upward = {name for name in own_imports(module) if room_of(name) > room_of(module)}
    assert not upward, f"{module} imports {upward}"


def test_transforms_never_import_pipeline() -> None:
    assert not [
        (module, name) for module in MODULES if module.startswith("transforms") for name in imports(module) if name.startswith("pipeline")
    ]


def test_no_two_modules_import_each_other() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        if module not in done:
            for name in own_imports(module):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def callers(name: str) -> set[str]:
    """The modules that call the function or class ``name``."""
    return {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    }


def test_failed_rows_are_made_in_one_function() -> None:
    assert callers("FailedRow") == set(), "FailedRow.of makes them"


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("0xA282EAD8", "transforms.formats.tfrecord.framing"),  # the mask of TFRecord's checksums
        ("Decoder(list[msgspec.Raw])", "transforms.rows.keys"),  # takes composite keys apart
        ('"?" if dim is None', "transforms.specs.signature"),  # a shape as text
        ('"…"', "transforms.specs.messages"),  # a long text cut
        ('= "statistics.json"', "transforms.specs.own_names"),
        ('= "prediction.errors"', "transforms.specs.own_names"),
    ],
)
def test_a_rule_is_written_once(text: str, module: str) -> None:
    assert [name for name, path in MODULES.items() if text in path.read_text(encoding="utf-8")] == [module]


@pytest.mark.parametrize("module", list(MODULES))
def test_tensorflow_is_imported_only_by_the_model_and_only_when_used(module: str) -> None:
    def is_tensorflow(name: str) -> bool:
        return name.split(".")[0] in ("tensorflow", "keras", "tfx_bsl")

    assert not any(map(is_tensorflow, imports(module, top_level_only=True)))
    if module == "transforms.formats.tfrecord.parse_examples":  # tfx-bsl's parser of tf.Examples, which needs no TensorFlow
        assert {name.split(".")[0] for name in imports(module) if is_tensorflow(name)} == {"tfx_bsl"}
    elif not module.startswith("transforms.model."):
        assert not any(map(is_tensorflow, imports(module)))


@pytest.mark.parametrize("module", list(MODULES))
def test_specs_rules_of_a_row_and_flags_need_no_beam(module: str) -> None:
    if module.startswith(("transforms.specs.", "transforms.rows.", "transforms.convert.from_json", "pipeline.flags.specs_of")):
        assert not [name for name in imports(module) if name.startswith("apache_beam")]


@pytest.mark.parametrize("module", list(MODULES))
def test_files_stay_readable(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 500, f"{module} is two things"
    assert MODULES[module].stem not in ("util", "utils", "base", "common", "helpers", "misc")
    assert "__all__" not in source
    assert ast.get_docstring(ast.parse(source)), "every module says what it is"


@pytest.mark.parametrize("package", [module for module in MODULES if module.endswith("__init__")])
def test_packages_hold_a_docstring_only(package: str) -> None:
    (docstring,) = ast.parse(MODULES[package].read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)


@pytest.mark.parametrize("module", [module for module in MODULES if ROOMS[room_of(module)] in IMPERATIVE_ROOMS])
def test_docstrings_of_functions_begin_with_an_imperative_verb(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        docstring = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
        assert not docstring or not NO_VERB.match(docstring), f"{module}: {docstring}"


# --- docs/architecture.md ----------------------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    """Return docs/architecture.md's section of each room, under the room's name."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = re.findall(r"^### `((?:transforms|pipeline)/[^`]*)`\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
    return {path.removesuffix(".py").rstrip("/*").replace("/", "."): text for path, text in found}


def short_name(room: int) -> str:
    return "verbs" if ROOMS[room] == "transforms" else ROOMS[room].rpartition(".")[2]


def test_the_page_has_a_section_for_each_room_from_the_bottom_up() -> None:
    assert tuple(sections()) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_the_page_says_of_each_room_what_the_code_says(room: str) -> None:
    number, text = ROOMS.index(room), sections()[room]
    modules = {module for module in MODULES if room_of(module) == number and not module.endswith("__init__")}
    if modules != {room}:  # a folder
        named = {f"{room}.{path.replace('/', '.')}" for path in re.findall(r"^\| `([\w/]+)\.py` \|", text, re.MULTILINE)}
        assert named == modules, f"docs/architecture.md, {room}: one line a module"
        docstring = ast.get_docstring(ast.parse(MODULES[f"{room}.__init__"].read_text(encoding="utf-8"))) or ""
        assert text.strip().splitlines()[0] == docstring.replace("``", "`"), "the page's sentence is the package's docstring"
    imported = sorted({room_of(name) for module in modules for name in own_imports(module)} - {number})
    names = ", ".join(f"`{short_name(one)}`" for one in imported) or "no other room"
    assert f"\nImports: {names}.\n" in text, f"docs/architecture.md, {room}: expected 'Imports: {names}.'"


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_files_that_the_documents_name_are_there(page: Path) -> None:
    named = re.findall(r"`((?:transforms|pipeline|tests|templates|benchmarks|docs)/[\w/.-]*)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=[str(path.relative_to(ROOT / "tests")) for path in TESTS])
def test_no_test_module_imports_another(path: Path) -> None:
    """What two of them need stands in a module of its own, such as tests/jobs.py."""
    names = {node.module or "" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.rpartition(".")[2].startswith("test_")]


# What a service or the program itself sets, outside of reading rows.
PATCHED = {"WINDOW_BYTES", "LOOKED_AT_FILES", "MAX_FILES"}


def test_limits_of_what_is_read_come_in_by_the_spec_and_are_not_patched() -> None:
    patches = re.compile(r"""setattr\([^)]*["'.](\w+_(?:BYTES|ROWS|VALUES|FILES))["']""")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py")))
    assert set(patches.findall(tests)) <= PATCHED


def private_uses(path: Path) -> Iterator[str]:
    """Yield the private names of our modules and classes that a test module imports, reads or patches."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ours: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            ours |= {alias.asname or alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours and re.match("_(?!_)", node.attr):
            yield f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and ast.unparse(node.args[0]).split(".")[0] in ours:
            yield from (str(name.value) for name in node.args[1:2] if isinstance(name, ast.Constant) and str(name.value).startswith("_"))


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda path: path.stem)
def test_tests_go_through_public_doors(path: Path) -> None:
    assert not set(private_uses(path)), f"{path.name}: what is a unit of its own has a public name; the rest is tested through its caller"
