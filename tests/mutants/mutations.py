"""Small changes of a module's source, each of which some test should notice."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
from collections.abc import Callable, Iterator

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
# What is said, and not done: a message that is lost or reads otherwise loses no row.
SPOKEN = ("LOG.", "complain", "print", "warnings.")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change: ``source`` is the module with it. ``line`` and ``lines`` are where it stands, and the lines that tests must reach."""

    module: str
    line: int
    lines: tuple[int, ...]
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """The change as a person reads it, the same as long as its line is."""
        return f"{self.module}: {self.before} → {self.after}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of its lines."""
    tree = ast.parse(source)
    found = [(node, new) for node in _judged(tree) for new in _changes(node)]
    for node, new in sorted(found, key=lambda pair: (pair[0].lineno, pair[0].col_offset, pair[1])):
        yield _replace(module, source, node, new)


def _judged(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    """Yield the nodes whose change a test could see: no types, no messages, no sizes that are only tuned, no assertions."""
    waiting: list[ast.AST] = list(tree.body)
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):  # a constant: a size, a pattern, a table
            waiting.remove(statement)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arg | ast.Raise) or _is_spoken(node):
            if isinstance(node, ast.Raise):
                yield node
            continue
        if isinstance(node, ast.expr | ast.stmt):
            yield node
        waiting += [child for name, child in _children(node) if name not in ("annotation", "returns", "decorator_list", "bases")]


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield name, child


def _is_spoken(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func).startswith(SPOKEN)


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Yield the texts that may stand in the place of ``node``."""
    for kind, change in _CHANGES:
        if isinstance(node, kind):
            yield from change(node)


def _compare(node: ast.Compare) -> Iterator[str]:
    for place, operator in enumerate(node.ops):
        changed = [*node.ops]
        changed[place] = COMPARISONS[type(operator)]()
        yield _text(ast.Compare(node.left, changed, node.comparators))


def _boolean(node: ast.BoolOp) -> Iterator[str]:
    yield _text(ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))


def _negation(node: ast.UnaryOp) -> Iterator[str]:
    if isinstance(node.op, ast.Not):
        yield _text(node.operand)


def _operation(node: ast.BinOp) -> Iterator[str]:
    if type(node.op) in OPERATORS and not isinstance(node.left, ast.JoinedStr):
        yield _text(ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))


def _constant(node: ast.Constant) -> Iterator[str]:
    if isinstance(node.value, bool):
        yield repr(not node.value)
    elif isinstance(node.value, int):
        yield repr(node.value + 1)


def _condition(node: ast.If | ast.While | ast.IfExp) -> Iterator[str]:
    """Changes of the condition alone; ``_replace`` puts them in its place."""
    yield from ("True", "False") if not isinstance(node, ast.While) else ("False",)


def _returned(node: ast.Return) -> Iterator[str]:
    if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
        yield "return None"


def _left_out(node: ast.stmt) -> Iterator[str]:
    if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call | ast.Yield | ast.YieldFrom):
        yield "pass"


def _other_function(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        yield _text(ast.Call(ast.Name(FUNCTIONS[node.func.id]), node.args, node.keywords))
    if isinstance(node.func, ast.Name) and node.func.id == "sorted" and len(node.args) == 1 and not node.keywords:
        yield _text(ast.Call(ast.Name("list"), node.args, []))


_CHANGES: tuple[tuple[type | tuple[type, ...], Callable[..., Iterator[str]]], ...] = (
    (ast.Compare, _compare),
    (ast.BoolOp, _boolean),
    (ast.UnaryOp, _negation),
    (ast.BinOp, _operation),
    (ast.Constant, _constant),
    ((ast.If, ast.While, ast.IfExp), _condition),
    (ast.Return, _returned),
    ((ast.Expr, ast.AugAssign, ast.Raise, ast.Delete), _left_out),
    (ast.Continue, lambda _: iter(("break",))),
    (ast.Break, lambda _: iter(("continue",))),
    (ast.Call, _other_function),
)


def _text(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


def _replace(module: str, source: str, whole: ast.expr | ast.stmt, new: str) -> Mutant:
    """Put ``new`` in a node's place; all lines keep their numbers, so that what tests reached is known by them."""
    node = whole.test if isinstance(whole, ast.If | ast.While | ast.IfExp) else whole
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    data = source.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    start, stop = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    missing = "\n" * (node.end_lineno - node.lineno)
    text = f"({new}{missing})" if missing and isinstance(node, ast.expr) else new + missing
    changed = (data[:start] + text.encode() + data[stop:]).decode()
    line_text = source.splitlines()[node.lineno - 1].strip()
    what = data[start:stop].decode()
    before = f"{line_text} [{' '.join(what.split())}]" if what.strip() != line_text else line_text
    return Mutant(module, node.lineno, tuple(range(node.lineno, node.end_lineno + 1)), before, new, changed)
