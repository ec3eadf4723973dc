"""Queries of clients about the catalog: PostgreSQL's SQL over PostgreSQL's tables, for DuckDB.

Such a query reads `pg_class` and its like, or calls functions of PostgreSQL's; it is parsed as
PostgreSQL's, printed as DuckDB's, and its tables become the views of ``sql/pg_catalog.sql``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from flordb.query.statement import parse
from flordb.serve.pg.errors import SessionError
from flordb.serve.pg.variables import SERVER_VERSION, Variables

SCHEMA = "pg"

_SIGNS = re.compile(
    r"\bpg_\w+|\binformation_schema\b|\bcurrent_setting\b|\bset_config\b|\bversion\s*\(|"
    r"::\s*reg\w+|\bas\s+reg\w+|\b(session_user|current_user|current_catalog|current_role)\b|"
    r"\bquote_ident\b|\bobj_description\b|\bformat_type\b",
    re.IGNORECASE,
)
# What sqlglot does not know, and means nothing here.
_REMOVED = (
    (re.compile(r"OPERATOR\s*\(\s*pg_catalog\.\s*([^\s)]+)\s*\)", re.IGNORECASE), r"\1"),
    (re.compile(r'COLLATE\s+"?pg_catalog"?\."?default"?', re.IGNORECASE), ""),
    (re.compile(r'COLLATE\s+"(C|default)"', re.IGNORECASE), ""),
    (re.compile(r"::\s*pg_catalog\.", re.IGNORECASE), "::"),
    (re.compile(r"::\s*oid\s*\[\]", re.IGNORECASE), "::bigint[]"),
    (re.compile(r"\bAS\s+pg_catalog\.(?=\w+\s*\))", re.IGNORECASE), "AS "),
    (re.compile(r"\b(?:pg_catalog|information_schema)\.(?=\w+\s*\()", re.IGNORECASE), ""),
)
_OURS = frozenset(
    {
        *("pg_am", "pg_attrdef", "pg_attribute", "pg_auth_members", "pg_authid", "pg_class"),
        *("pg_collation", "pg_constraint", "pg_database", "pg_depend", "pg_description"),
        *("pg_enum", "pg_extension", "pg_foreign_server", "pg_foreign_table", "pg_index"),
        *("pg_indexes", "pg_inherits", "pg_language", "pg_matviews", "pg_namespace"),
        *("pg_opclass", "pg_partitioned_table", "pg_policy", "pg_proc", "pg_publication"),
        *("pg_publication_namespace", "pg_publication_rel", "pg_range", "pg_rewrite"),
        *("pg_roles", "pg_sequence", "pg_settings", "pg_shdescription", "pg_stat_user_tables"),
        *("pg_statistic_ext", "pg_tables", "pg_tablespace", "pg_trigger", "pg_type", "pg_user"),
        "pg_views",
    }
)
_INFORMATION = frozenset({"columns", "schemata", "tables", "views"})
_TEXTS = frozenset({"name", "char", "regproc", "regprocedure", "regrole", "regnamespace"})
_NUMBERS = frozenset({"oid", "xid", "cid", "tid"})


def translated(sql: str, variables: Variables) -> str | None:
    """A catalog query as DuckDB runs it; None for any other statement.

    ``variables``: what ``current_setting`` reads and ``set_config`` sets.
    """
    if not _SIGNS.search(sql) or parse(sql).references:
        return None
    text = sql
    for pattern, replacement in _REMOVED:
        text = pattern.sub(replacement, text)
    try:
        tree = sqlglot.parse_one(text, read="postgres")
    except SqlglotError:
        return None
    if not isinstance(tree, exp.Query):
        return None
    for table in list(tree.find_all(exp.Table)):
        _point(table)
    for kind in (exp.Column, exp.Func, exp.Cast):
        for node in reversed(list(tree.find_all(kind))):  # the innermost first
            new = _node(node, variables)
            if new is not node:
                node.replace(new)
    return tree.sql("duckdb")


def _point(table: exp.Table) -> None:
    """Let a table of PostgreSQL's be the view that stands for it."""
    if isinstance(table.this, exp.StringToArray):  # FROM string_to_array(…) s: a row, one column
        name = table.alias or "string_to_array"
        table.replace(exp.select(exp.alias_(table.this, name)).subquery(name))
        return
    name, schema = table.name.lower(), table.db.lower()
    new = None
    if schema in ("", "pg_catalog") and name in _OURS:
        new = name
    elif schema == "information_schema" and name in _INFORMATION:
        new = f"information_schema_{name}"
    if new is None:
        return
    if not table.alias:
        table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
    table.set("this", exp.to_identifier(new))
    table.set("db", exp.to_identifier(SCHEMA))
    table.set("catalog", None)


def _node(node: exp.Expr, variables: Variables) -> exp.Expr:
    if isinstance(node, exp.Cast):
        return _cast(node)
    if isinstance(node, exp.CurrentVersion):
        return exp.Literal.string(f"PostgreSQL {SERVER_VERSION} (FlorDB)")
    if isinstance(node, (exp.CurrentUser, exp.SessionUser)):
        return exp.Literal.string("flor")
    if isinstance(node, exp.Column) and not node.table:
        if node.name.lower() in ("current_role", "user") and not node.this.quoted:
            return exp.Literal.string("flor")
        if node.name.lower() == "current_catalog":
            return exp.Literal.string("flordb")
    if isinstance(node, exp.Column) and node.db:
        return exp.column(node.this, table=node.args["table"])  # pg_catalog.pg_class.oid
    if isinstance(node, exp.Anonymous):
        function = _FUNCTIONS.get(node.name.lower())
        return function(node, variables) if function is not None else node
    return node


def _cast(cast: exp.Cast) -> exp.Expr:
    kind = cast.to.sql("postgres").lower().strip('"')
    inner = cast.this
    if kind in ("text", "varchar", "name") and isinstance(inner, exp.Anonymous):
        back = {"pg_regclass": "pg_class_name", "pg_regtype": "pg_format_type"}.get(inner.name)
        if back is not None:
            more = [exp.Null()] if back == "pg_format_type" else []
            return exp.Anonymous(this=back, expressions=[*inner.expressions, *more])
    if kind in ("regclass", "regtype"):
        return exp.Anonymous(this=f"pg_{kind}", expressions=[inner])
    if kind in _TEXTS:
        return exp.cast(inner, "text")
    if kind in _NUMBERS:
        return exp.cast(inner, "bigint")
    if kind.endswith("[]") and isinstance(inner, exp.Literal) and inner.this.startswith("{"):
        parts = [part.strip('"') for part in inner.this[1:-1].split(",") if part]
        return exp.array(*(exp.Literal.string(part) for part in parts))
    if kind in ("oid[]", "int2vector", "oidvector"):
        return exp.cast(inner, exp.DataType.build("bigint[]", dialect="duckdb"))
    if kind in ("name[]", 'char"[]'):
        return exp.cast(inner, exp.DataType.build("text[]", dialect="duckdb"))
    return cast


def _setting(node: exp.Anonymous, variables: Variables) -> exp.Expr:
    name, *more = (_constant(argument) for argument in node.expressions)
    if isinstance(name, exp.Null):
        return name
    if not isinstance(name, exp.Literal):
        return node
    if more and name.this.lower() not in variables.values:
        return exp.Null()
    return exp.Literal.string(variables.show(name.this.lower()))


def _constant(argument: exp.Expr) -> exp.Expr:
    """An argument without the casts around it."""
    while isinstance(argument, (exp.Cast, exp.Paren)):
        argument = argument.this
    return argument


def _set_config(node: exp.Anonymous, variables: Variables) -> exp.Expr:
    name, value, *_ = [*map(_constant, node.expressions), None, None]
    if not isinstance(name, exp.Literal) or not isinstance(value, exp.Literal):
        raise SessionError("0A000", "set_config is served for constants alone")
    variables.set(name.this.lower(), value.this)
    return exp.Literal.string(value.this)


def _renamed(name: str) -> Callable[[exp.Anonymous, Variables], exp.Expr]:
    return lambda node, _: exp.Anonymous(this=name, expressions=node.expressions)


_FUNCTIONS: dict[str, Callable[[exp.Anonymous, Variables], exp.Expr]] = {
    "current_setting": _setting,
    "set_config": _set_config,
    "format_type": _renamed("pg_format_type"),
    "json_build_object": _renamed("json_object"),
    "to_regclass": _renamed("pg_regclass"),
    "to_regtype": _renamed("pg_regtype"),
}
