"""Where a small fault can be planted into a file, and what it is: a walk over its syntax tree."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass

Node = ast.expr | ast.stmt
TURNED: dict[type, str] = {
    ast.Lt: ">=", ast.GtE: "<", ast.Gt: "<=", ast.LtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
NEIGHBOUR: dict[type, str] = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
EXCHANGED: dict[type, str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
}
# Method calls without which their object is still the same kind of thing.
PASSING = {
    "detach", "clone", "eval", "train", "clamp_min", "clamp", "float", "double", "square", "sqrt", "mean",
    "sum_",
}  # fmt: skip
# What only speaks to people, or only reads the surroundings.
SPEAKING = {
    "say", "tqdm", "write", "close", "advance", "warn", "print", "getLogger", "filterwarnings", "setLevel",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        file: from the root, with slashes. function: its qualified name, empty for the module itself.
        kind: of the fault. line: the first line of the statement it is in.
        before, after: the text at the place, and what stands there instead.
        place: which of the places with the same kind, line, before and after in the function, from 0.
    """

    file: str
    function: str
    kind: str
    line: str
    before: str
    after: str
    place: int = 0

    @property
    def name(self) -> str:
        return f"{self.file}:{self.function}: {self.before!r} -> {self.after!r}"


@dataclass(frozen=True)
class Site:
    """A mutant, and where it stands in the text now: offsets in UTF-8."""

    mutant: Mutant
    start: int
    end: int


def sites(path: str, text: str) -> list[Site]:
    """Every fault that could be planted into the text of a file."""
    walk = _Walk(path, text)
    walk.visit(ast.parse(text))
    seen: dict[Mutant, int] = {}
    found = []
    for mutant, start, end in walk.found:
        place = seen.get(mutant, 0)
        seen[mutant] = place + 1
        found.append(Site(Mutant(**{**asdict(mutant), "place": place}), start, end))
    return found


class _Walk(ast.NodeVisitor):
    """Collects (mutant, start, end) in the order of the text."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.raw = path, text.encode()
        self.lines = self.raw.splitlines(keepends=True)
        self.offsets = [0]
        for line in self.lines:
            self.offsets.append(self.offsets[-1] + len(line))
        self.functions: list[str] = []
        self.statement: ast.stmt | None = None
        self.fields: list[dict[str, set[str]]] = [{}]
        self.found: list[tuple[Mutant, int, int]] = []

    # --- Where we are

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self.statement = node
        if isinstance(
            node, (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.AnnAssign)
        ):
            if not (isinstance(node, ast.AnnAssign) and node.value is not None):
                return
            self.visit(node.value)
            return
        if isinstance(node, ast.Call) and _called(node) in SPEAKING:
            return
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.functions.append(node.name)
        self.fields.append(_fields_read(node))
        for decorator in node.decorator_list:
            self.visit(decorator)
        for default in (
            *node.args.defaults,
            *(value for value in node.args.kw_defaults if value is not None),
        ):
            self.statement = node
            self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self._returned(node)
        self.fields.pop()
        self.functions.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.functions.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.functions.pop()

    def add(self, kind: str, node: Node, after: str) -> None:
        before = self.source(node)
        if before == after or self.statement is None:
            return
        self._add(kind, before, after, self._offset(node.lineno, node.col_offset), self._end(node))

    def _add(self, kind: str, before: str, after: str, start: int, end: int) -> None:
        assert self.statement is not None
        line = self.lines[self.statement.lineno - 1].decode().strip()
        self.found.append(
            (Mutant(self.path, ".".join(self.functions), kind, line, before, after), start, end)
        )

    def _offset(self, line: int, column: int) -> int:
        return self.offsets[line - 1] + column

    def _end(self, node: Node | ast.keyword) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._offset(node.end_lineno, node.end_col_offset)

    def source(self, node: Node | ast.keyword) -> str:
        return self.raw[self._offset(node.lineno, node.col_offset) : self._end(node)].decode()

    def whole(self, node: ast.expr) -> str:
        """Its text, so that it stays one thing wherever it is put."""
        simple = isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript))
        return self.source(node) if simple else f"({self.source(node)})"

    # --- The faults

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node.value, ast.Call) and _called(node.value) not in SPEAKING:
            self.add("call left out", node, "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = _called(node)
        if isinstance(node.func, ast.Attribute) and called in PASSING and self.source(node.func.value) != "F":
            self.add("step left out", node, self.whole(node.func.value))
        if called == "no_grad":
            self.add("gradient kept", node, "torch.enable_grad()")
        if called in ("min", "max"):
            self.add("min and max exchanged", node.func, "max" if called == "min" else "min")
        if called != "no_grad":
            self._arguments(node)
        self.generic_visit(node)

    def _arguments(self, node: ast.Call) -> None:
        plain = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        if len(plain) == len(node.args) and len(plain) >= 2:
            one, two = plain[0], plain[1]
            start, end = self._offset(one.lineno, one.col_offset), self._end(two)
            between = self.raw[self._end(one) : self._offset(two.lineno, two.col_offset)].decode()
            after = self.source(two) + between + self.source(one)
            self._add("arguments exchanged", self.raw[start:end].decode(), after, start, end)
        for keyword in node.keywords:
            both: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
            others = [part for part in both if part is not keyword]
            listed = ", ".join(self.source(part) for part in others)
            self.add("keyword left out", node, f"{self.source(node.func)}({listed})")

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            left, right = self.whole(node.left), self.whole(node.comparators[0])
            self.add("comparison turned", node, f"{left} {TURNED[type(node.ops[0])]} {right}")
            if type(node.ops[0]) in NEIGHBOUR:
                self.add("bound moved", node, f"{left} {NEIGHBOUR[type(node.ops[0])]} {right}")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " or " if isinstance(node.op, ast.And) else " and "
        self.add("and, or exchanged", node, f"({word.join(map(self.whole, node.values))})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self.add("not or minus left out", node, self.whole(node.operand))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in EXCHANGED and not any(_is_text(side) for side in (node.left, node.right)):
            left, right = self.whole(node.left), self.whole(node.right)
            self.add("arithmetic exchanged", node, f"({left} {EXCHANGED[type(node.op)]} {right})")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        target, value = self.source(node.target), self.source(node.value)
        if isinstance(node.op, ast.Add) and not isinstance(node.value, ast.List):
            self.add("arithmetic exchanged", node, f"{target} -= {value}")
        self.add("sum forgotten", node, f"{target} = {value}")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add("truth turned", node, str(not node.value))
        elif isinstance(node.value, int):
            self.add("constant changed", node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.add("constant changed", node, repr(node.value * 2 if node.value else 1.0))

    def visit_If(self, node: ast.If) -> None:
        self.add("branch always taken", node.test, "True")
        self.add("branch never taken", node.test, "False")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.add("branch always taken", node, self.whole(node.body))
        self.add("branch never taken", node, self.whole(node.orelse))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        base = self.source(node.value)
        for other in sorted(self.fields[-1].get(base, set()) - {node.attr}):
            self.add("another field read", node, f"{base}.{other}")
        self.generic_visit(node)

    def _returned(self, node: ast.FunctionDef) -> None:
        names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
        for statement in ast.walk(node):
            if isinstance(statement, ast.Return) and statement.value is not None and names:
                self.statement = statement
                self.add("input returned", statement.value, names[0])


def _fields_read(node: ast.FunctionDef) -> dict[str, set[str]]:
    """What a function reads of each recipe: `config.loss` -> {`lecam`, `perceptual`, ...}."""
    found: dict[str, set[str]] = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            base = ast.unparse(part.value)
            if base.split(".")[0] in (
                "config",
                "rates",
                "weights",
                "settings",
                "model",
                "engine",
                "lora",
                "muon",
            ):
                found.setdefault(base, set()).add(part.attr)
    calls = {ast.unparse(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
    return {
        base: {name for name in names if f"{base}.{name}" not in calls}
        for base, names in found.items()
        if base not in calls
    }


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
