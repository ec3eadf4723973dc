"""What no replay can repeat: clocks, process numbers, random identifiers, the order of sets of
strings.

Only what plainly flows into an expression is found: calls in it, and variables that plain
expressions assign. What reaches it by other ways, through objects and functions, may have been kept
by a snapshot; there the comparison with the record has to tell.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from flordb.analysis.program import Module, Program
from flordb.analysis.slices import names_read

_CALLS = frozenset(
    (
        *("time.time", "time.time_ns", "time.monotonic", "time.perf_counter", "time.process_time"),
        *("time.perf_counter_ns", "time.monotonic_ns", "time.ctime", "time.localtime"),
        *("time.gmtime", "time.strftime", "datetime.datetime.now", "datetime.datetime.utcnow"),
        *("datetime.datetime.today", "datetime.date.today", "uuid.uuid1", "uuid.uuid4"),
        *("os.getpid", "os.getppid", "os.urandom", "os.times", "socket.gethostname"),
        *("secrets.token_hex", "secrets.token_bytes", "secrets.token_urlsafe"),
        *("secrets.randbelow", "threading.get_ident", "resource.getrusage", "os.getloadavg"),
        *("timeit.default_timer", "tempfile.mkdtemp", "tempfile.mktemp", "id", "input"),
    )
)
_PLAIN_CALLS = frozenset(
    (
        *("int", "float", "str", "round", "abs", "min", "max", "repr", "format", "bool"),
        *("list", "tuple", "dict", "enumerate", "zip"),
    )
)
_OF_TEXT = frozenset(
    ("split", "lower", "upper", "strip", "splitlines", "casefold", "title", "read", "readlines")
)


def unrepeatable(
    program: Program, statements: Iterable[tuple[Module, ast.stmt]], hash_seed_fixed: bool
) -> str | None:
    """What the value of these statements comes from that no replay can repeat, as a sentence.

    Parameters: ``hash_seed_fixed``, whether the run's PYTHONHASHSEED is known.
    """
    sources = _Sources(program, hash_seed_fixed)
    for module, statement in statements:
        found = sources.of(module, statement)
        if found is not None:
            return found
    return None


class _Sources:
    def __init__(self, program: Program, hash_seed_fixed: bool) -> None:
        self.hash_seed_fixed = hash_seed_fixed
        self.calls = {path: dict(_imports(m.tree)) for path, m in program.modules.items()}
        self.text_sets: set[str] = set()
        self.tainted: dict[str, str] = {}
        assigned = [
            (module, names, value)
            for module in program.modules.values()
            for names, value in _assignments(module.tree)
        ]
        for _, names, value in assigned:
            if _is_text_set(value):
                self.text_sets |= names
        while True:
            before = len(self.tainted)
            for module, names, value in assigned:
                found = self.of(module, value) if self._is_plain(module, value) else None
                if found is not None:
                    for name in names:
                        self.tainted.setdefault(name, f"{name.lstrip('.')} comes from {found}")
            if len(self.tainted) == before:
                return

    def of(self, module: Module, node: ast.AST) -> str | None:
        """What an expression or statement takes in that cannot be repeated."""
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and self._dotted(module, part.func) in _CALLS:
                return f"{ast.unparse(part.func)}(), which no replay can repeat"
            if isinstance(part, (ast.comprehension, ast.For)) and self._by_hash(part.iter):
                return (
                    f"the order of a set of strings ({ast.unparse(part.iter)}), which changes with "
                    "the process, as the run did not set PYTHONHASHSEED"
                )
        for name in sorted(names_read(node)):
            if name in self.tainted:
                return self.tainted[name]
        return None

    def _by_hash(self, iterable: ast.expr) -> bool:
        if self.hash_seed_fixed:
            return False
        if isinstance(iterable, ast.Call) and isinstance(iterable.func, ast.Name):
            keeps_order = iterable.func.id in ("enumerate", "list", "tuple", "zip", "iter")
            return keeps_order and any(self._by_hash(argument) for argument in iterable.args)
        if isinstance(iterable, ast.Name):
            return iterable.id in self.text_sets
        return _is_text_set(iterable)

    def _is_plain(self, module: Module, value: ast.expr) -> bool:
        """Whether an expression only computes: no object or function of the project is made or
        called that may keep the value where a snapshot has it."""
        for part in ast.walk(value):
            if isinstance(part, ast.Call):
                name = part.func.id if isinstance(part.func, ast.Name) else ""
                dotted = self._dotted(module, part.func)
                known = name in _PLAIN_CALLS or dotted in _CALLS
                method_of_source = isinstance(part.func, ast.Attribute) and not name
                if not known and not (method_of_source and self._inside(module, part.func)):
                    return False
        return True

    def _inside(self, module: Module, function: ast.expr) -> bool:
        """Whether it is a method of what a source gave, like ``uuid4().hex.upper``."""
        return any(
            isinstance(n, ast.Call) and self._dotted(module, n.func) in _CALLS
            for n in ast.walk(function)
        )

    def _dotted(self, module: Module, function: ast.expr) -> str:
        parts: list[str] = []
        while isinstance(function, ast.Attribute):
            parts.append(function.attr)
            function = function.value
        if not isinstance(function, ast.Name):
            return ""
        imported = self.calls[module.path].get(function.id, function.id)
        return ".".join((imported, *reversed(parts)))


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    alias.asname or alias.name.partition(".")[0],
                    (alias.name if alias.asname else alias.name.partition(".")[0]),
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _assignments(tree: ast.AST) -> Iterator[tuple[set[str], ast.expr]]:
    """(names, value) of the assignments to variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield _targets(node.targets), node.value
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
            yield _targets([node.target]), node.value


def _targets(targets: Iterable[ast.expr]) -> set[str]:
    found: set[str] = set()
    for target in targets:
        if isinstance(target, ast.Name):
            found.add(target.id)
        elif isinstance(target, ast.Attribute):
            found.add(f".{target.attr}")
        elif isinstance(target, (ast.Tuple, ast.List)):
            found |= _targets(target.elts)
    return found


def _is_text_set(value: ast.expr) -> bool:
    """Whether it is plainly a set of strings, whose order the process's hash seed decides."""
    if isinstance(value, ast.Set):
        return any(isinstance(e, ast.Constant) and isinstance(e.value, str) for e in value.elts)
    if isinstance(value, ast.SetComp):
        return _makes_text(value.elt) or any(_makes_text(g.iter) for g in value.generators)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in ("set", "frozenset") and any(_makes_text(a) for a in value.args)
    return False


def _makes_text(node: ast.expr) -> bool:
    return any(
        (isinstance(n, ast.Attribute) and n.attr in _OF_TEXT)
        or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        for n in ast.walk(node)
    )
