"""What a statement says about ``flor``: the references in it, and where they stand in its text.

Statements are never printed anew: what must change is spliced in at the token positions that
sqlglot gives. A statement that sqlglot cannot parse has no references, and goes to DuckDB as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from flordb.query.tokens import adapted

RELATION = "flor"
_TABLES = frozenset(
    {
        *("flor", "flor_pivot", "runs", "loops", "logs", "names", "nests", "snapshots", "timings"),
        *("acquisitions", "replay_anomalies", "lineage", "problems", "files", "meta", "flordb"),
        *("git_commits", "git_files", "flor_commits", "flor_files", "flor_source"),
    }
)
# Listings of tables are to show ours.
_LISTINGS = ("show", "describe", "information_schema", "duckdb_tables", "duckdb_views")
_SETTINGS = (r"flor_\w+",)
_WORDS = "|".join((*sorted(_TABLES), *_LISTINGS, *_SETTINGS))
_OURS = re.compile(rf"\b({_WORDS})\b", re.IGNORECASE)
_TRANSACTION = re.compile(r"\b(begin|start|commit|end|rollback|abort)\b", re.IGNORECASE)
_KNOWN_START = re.compile(
    r"\s*\(*\s*(select|from|with|values|describe|show|summarize|explain|insert|update|delete)\b",
    re.IGNORECASE,
)
HEAD = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:prepare\s+(?P<prepared>\w+|\"(?:[^\"]|\"\")+\")\s+as\b"
    r"|(?P<explain>explain)(?:\s+analyze\b)?(?:\s*\(\s*(?:format|analyze)\b[^)]*\))?)",
    re.IGNORECASE | re.DOTALL,
)

_DUCKDB = DuckDB()

# It warns about each statement that it only knows as a command; that is no news to a user.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Reference:
    """``flor`` as a relation in a statement.

    ``start`` and ``end``: the characters of the name, with its schema, in the text. ``scope``: the
    SELECT, UPDATE, DELETE or MERGE that reads it, None where there is none (``PIVOT flor …``).
    ``alias``: what its columns are qualified with; ``renamed``: the first of them, as in
    ``flor AS f(a, b)``. ``tree``: the whole statement. ``pivot``: the PIVOT … GROUP BY that reads
    it, which names all the columns that it uses.
    """

    start: int
    end: int
    alias: str
    has_alias: bool
    scope: exp.Expr | None
    renamed: tuple[str, ...]
    tree: exp.Expr
    pivot: exp.Pivot | None = None

    @property
    def select(self) -> exp.Select | None:
        """The SELECT whose FROM it is in."""
        return self.scope if isinstance(self.scope, exp.Select) else None


@dataclass(frozen=True)
class Statement:
    """A parsed SQL statement. ``probe``: it only asks for the columns, so nothing is acquired.

    ``explain``: the tree is that of the statement that is to be explained. ``defines``: the view or
    macro that it makes, in small letters; ``prepares``: the statement that it prepares. ``hides``:
    what it makes would be called ``flor``.
    ``lasting``: its text is kept for later. ``dropped``: the places of ``main.`` in
    ``main.flor.loss``, which what stands for ``flor`` does not have.
    """

    text: str
    tree: exp.Expr | None
    references: tuple[Reference, ...] = ()
    explain: bool = False
    probe: bool = False
    defines: str | None = None
    lasting: bool = False
    dropped: tuple[tuple[int, int], ...] = ()
    prepares: str | None = None
    hides: bool = False


def tokens_of(sql: str) -> list[Token] | None:
    """The tokens of an SQL text, None where it has none that sqlglot understands."""
    try:
        return sqlglot.tokenize(sql, read="duckdb")
    except SqlglotError:
        return None


def mentions_our_tables(sql: str) -> bool:
    """Whether an SQL text may need the project's tables. Quick, and true in doubt."""
    return _OURS.search(sql) is not None


def reads_flor(sql: str) -> bool:
    """Whether a statement that could not be parsed reads ``flor`` all the same, by its tokens."""
    tokens = tokens_of(sql) or []
    return any(
        before.text.lower() in ("from", "join", "using", "pivot", "unpivot")
        and after.token_type in (TokenType.VAR, TokenType.IDENTIFIER)
        and after.text.lower() == RELATION
        for before, after in pairwise(tokens)
    )


def parameter_names(sql: str) -> list[str]:
    """The names of the parameters ``$name`` in an SQL text."""
    tokens = tokens_of(sql) or []
    pairs = pairwise(tokens)
    return [
        b.text for a, b in pairs if a.token_type == TokenType.PARAMETER and b.text[:1].isalpha()
    ]


def words_of(sql: str, words: Iterable[str]) -> list[str]:
    """Those of the words, in small letters, that occur in an SQL text."""
    there = {word.lower() for word in re.findall(r"\w+", sql)}
    return [word for word in words if word in there or not word.isidentifier()]


def split(sql: str) -> list[str]:
    """The statements of a text, as they stand there."""
    tokens = tokens_of(sql)
    if tokens is None:
        return [sql]
    parts, start, words = [], 0, 0
    for token in tokens:
        words += 1
        if token.token_type == TokenType.SEMICOLON:
            if words > 1:
                parts.append(sql[start : token.start])
            start, words = token.end + 1, 0
    # What follows the last semicolon may be nothing but a comment.
    return [*parts, sql[start:]] if words or not parts else parts


def leaves_open(sql: str, before: bool) -> bool:
    """Whether a transaction is open after these statements, if one was ``before``."""
    if not _TRANSACTION.search(sql):
        return before
    for part in split(sql):
        tokens = tokens_of(part)
        first = tokens[0].text.lower() if tokens else ""
        if first in ("begin", "start"):
            before = True
        elif first in ("commit", "end", "rollback", "abort"):
            before = False
    return before


def changes_no_settings(sql: str) -> bool:
    """Whether a statement surely leaves settings and functions as they are."""
    return _KNOWN_START.match(sql) is not None and ";" not in sql.rstrip().rstrip(";")


def parse(sql: str) -> Statement:
    """Parse one statement; its positions are those of ``sql``."""
    head = HEAD.match(sql)
    explain = bool(head and head["explain"])
    # Blanks instead of EXPLAIN or PREPARE keep the positions.
    text = " " * head.end() + sql[head.end() :] if head else sql
    if text.startswith("\ufeff"):  # of an editor's, at the beginning of a file
        text = f" {text[1:]}"
    try:
        parsed = _DUCKDB.parser().parse(adapted(_DUCKDB.tokenize(text)), text)
        trees = [tree for tree in parsed if tree is not None]
    except SqlglotError:
        return Statement(sql, None, explain=explain)
    if len(trees) != 1 or isinstance(trees[0], exp.Command):
        return Statement(sql, None, explain=explain)
    tree = _with_columns(trees[0])
    references = tuple(_references(tree))
    defines = _defined(tree)
    probe = (head is not None and not explain) or _is_probe(tree) or defines is not None
    dropped = tuple(_schemas(tree)) if references else ()
    prepares = _plain(head["prepared"]) if head is not None and head["prepared"] else None
    lasting = defines is not None or prepares is not None
    hides = isinstance(tree, exp.Create) and _is_called_flor(tree.this)
    return Statement(
        *(sql, tree, references, explain, probe, defines, lasting, dropped, prepares, hides)
    )


def _plain(name: str) -> str:
    """A name as SQL compares it."""
    return name.strip('"').replace('""', '"').lower()


_EXECUTE = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*execute\s+(?P<name>\w+|\"(?:[^\"]|\"\")+\")\s*(?:\((?P<given>.*)\))?"
    r"[\s;]*",
    re.IGNORECASE | re.DOTALL,
)


def executed(sql: str) -> tuple[str, list[Any] | dict[str, Any] | None] | None:
    """The prepared statement that EXECUTE names, and its parameters where they are constants."""
    found = _EXECUTE.fullmatch(sql)
    if found is None:
        return None
    given: list[Any] = []
    named: dict[str, Any] = {}
    try:
        call = sqlglot.parse_one(f"f({found['given'] or ''})", read="duckdb")
    except SqlglotError:
        return _plain(found["name"]), None
    for argument in call.expressions:
        name = ""
        if isinstance(argument, exp.PropertyEQ):
            name, argument = argument.name, argument.expression
        if not isinstance(argument, exp.Literal):
            return _plain(found["name"]), None
        value: Any = argument.this
        if not argument.is_string:
            value = int(value) if argument.is_int else Decimal(value)
        if name:
            named[name] = value
        else:
            given.append(value)
    return _plain(found["name"]), named or given


def _is_called_flor(made: exp.Expr) -> bool:
    if isinstance(made, exp.Schema):  # CREATE TABLE flor (…)
        made = made.this
    if not isinstance(made, exp.Table) or made.name.lower() != RELATION:
        return False
    places = ("", "main", "memory", "temp")
    return made.db.lower() in places and made.catalog.lower() in places


def _defined(tree: exp.Expr) -> str | None:
    """The name of the view or macro that a statement makes."""
    if not isinstance(tree, exp.Create) or str(tree.args.get("kind")).upper() == "TABLE":
        return None
    made = tree.this
    while isinstance(made, exp.Expr) and not isinstance(made, (exp.Table, exp.Identifier)):
        made = made.this
    return made.name.lower() if isinstance(made, exp.Expr) else None


_VALUES = (exp.Func, exp.Binary, exp.Unary, exp.Bracket, exp.Between, exp.In, exp.Case, exp.If)


def _with_columns(tree: exp.Expr) -> exp.Expr:
    """The tree with a column where sqlglot leaves names as they are: in ``f.loss.round(2)``, and in
    ``[loss, acc].list_max()``."""
    for dot in list(tree.find_all(exp.Dot)):
        for name in list(dot.this.find_all(exp.Identifier)):
            if isinstance(name.parent, _VALUES) and not _names_a_field(name):
                name.replace(exp.Column(this=name.copy()))
        if not isinstance(dot.this, exp.Identifier):
            continue
        top, names = dot, [dot.this]
        while isinstance(top.expression, exp.Identifier) and isinstance(top.parent, exp.Dot):
            names.append(top.expression)
            top = top.parent
        parts = zip(("this", "table", "db", "catalog"), reversed(names[:4]), strict=False)
        value: exp.Expr = exp.Column(**dict(parts))
        for field in names[4:]:
            value = exp.Dot(this=value, expression=field)
        top.set("this", value)
    return tree


def _names_a_field(name: exp.Expr) -> bool:
    if name.arg_key not in ("this", "expression", "expressions"):
        return True
    is_key = isinstance(name.parent, exp.PropertyEQ) and name.arg_key == "this"
    return is_key or isinstance(name.parent, exp.Dot)


def _references(tree: exp.Expr) -> Iterator[Reference]:
    for table in tree.find_all(exp.Table):
        identifier = table.this
        if not isinstance(identifier, exp.Identifier) or identifier.name.lower() != RELATION:
            continue
        if table.db.lower() not in ("", "main") or table.catalog.lower() not in ("", "flordb"):
            continue
        if not table.db and _is_shadowed(table):
            continue
        if isinstance(table.parent, (exp.Schema, exp.Create, exp.Insert, exp.Drop)):
            continue
        if (
            isinstance(table.parent, (exp.Update, exp.Delete, exp.Merge))
            and table.arg_key == "this"
        ):
            continue  # DuckDB says that it is no table
        parts = [part for part in table.parts if isinstance(part, exp.Identifier)]
        if any("start" not in part.meta for part in parts):
            continue
        yield Reference(
            start=min(part.meta["start"] for part in parts),
            end=max(part.meta["end"] for part in parts) + 1,
            alias=table.alias or identifier.name,
            has_alias=bool(table.alias),
            scope=_scope_of(table),
            renamed=tuple(name.lower() for name in table.alias_column_names),
            tree=tree,
            pivot=_grouped(table),
        )


def _grouped(table: exp.Table) -> exp.Pivot | None:
    """The PIVOT (or UNPIVOT) over a table itself that says what it groups by."""
    pivot = table.parent
    return pivot if isinstance(pivot, exp.Pivot) and pivot.args.get("group") else None


def _schemas(tree: exp.Expr) -> Iterator[tuple[int, int]]:
    """The places of the schema in columns such as ``main.flor.loss``."""
    for column in tree.find_all(exp.Column):
        *schema, table, _ = (
            [part.name.lower() for part in column.parts] if column.table else [""] * 2
        )
        if table == RELATION and schema in (["main"], ["flordb"], ["flordb", "main"]):
            yield column.parts[0].meta["start"], column.parts[-2].meta["start"]


def _is_shadowed(table: exp.Table) -> bool:
    """Whether a common table expression named ``flor`` is meant."""
    node: exp.Expr | None = table
    while node is not None:
        clause = node.args.get("with_") or node.args.get("with")
        if isinstance(clause, exp.With):
            for cte in clause.expressions:
                inside = table.find_ancestor(exp.CTE) is cte and not clause.recursive
                if cte.alias.lower() == RELATION and not inside:
                    return True
        node = node.parent
    return False


_WRITING = (exp.Update, exp.Delete, exp.Merge)
_SCOPES = (exp.Select, *_WRITING)


def _scope_of(table: exp.Table) -> exp.Expr | None:
    """The statement in whose FROM, JOIN or USING the table stands itself."""
    node: exp.Expr | None = table.parent
    while node is not None and not isinstance(node, (*_SCOPES, exp.Subquery, exp.Pivot)):
        node = node.parent
    if table.args.get("pivots"):
        return None
    return node if isinstance(node, _SCOPES) else None


def _is_probe(tree: exp.Expr) -> bool:
    if isinstance(tree, exp.Describe):
        return True
    if isinstance(tree, exp.Select):
        return _is_limit_0(tree) or _is_never(tree.args.get("where"))
    return False


def _is_limit_0(select: exp.Select) -> bool:
    limit = select.args.get("limit")
    return isinstance(limit, exp.Limit) and limit.expression.sql() == "0"


def _is_never(where: exp.Expr | None) -> bool:
    if where is None:
        return False
    return any(_is_false(part) for part in conjuncts(where.this))


def _is_false(part: exp.Expr) -> bool:
    if isinstance(part, exp.Boolean):
        return not part.this
    if isinstance(part, exp.EQ) and part.left.is_number and part.right.is_number:
        return bool(part.left.this != part.right.this)
    return False


def conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    """The parts of a condition that must all hold."""
    waiting = [condition]  # a generated statement can have more than Python's stack is deep
    while waiting:
        part = waiting.pop()
        if isinstance(part, exp.Paren):
            waiting.append(part.this)
        elif isinstance(part, exp.And):
            waiting += [part.right, part.left]
        else:
            yield part
