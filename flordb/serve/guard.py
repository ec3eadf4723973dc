"""What sessions from outside may run: one SELECT, or the EXPLAIN of one, that only reads tables.

DuckDB's own parser decides: a statement is let through if the tree that it makes of the text has
nothing in it but nodes and functions that read. The second line of defence is DuckDB too:
statements run in read-only transactions, in a database without files, extensions and settings
(`flordb.serve.database`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import duckdb

from flordb.query.errors import translate
from flordb.query.statement import HEAD
from flordb.serve.errors import Refused

# Queries within queries. Others write: since DuckDB 2 also WITH x AS (DELETE …) is one SELECT.
_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
# All other table functions read files, memory or settings, or change something.
_TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"),
        *("flor_pivot", "histogram", "histogram_values", "summary", "pg_timezone_names"),
        *("duckdb_columns", "duckdb_constraints", "duckdb_functions", "duckdb_indexes"),
        *("duckdb_keywords", "duckdb_schemas", "duckdb_tables", "duckdb_types", "duckdb_views"),
        *("icu_calendar_names", "pragma_show", "pragma_table_info", "pragma_version"),
    }
)
_FORBIDDEN = frozenset(
    {
        *("getenv", "current_setting", "getvariable", "write_log", "nextval", "currval"),
        *("json_execute_serialized_sql", "json_serialize_plan", "variant_bytes_to_variant"),
        *("flor_authorize",),
    }
)
# Views of DuckDB's own that tell about the server.
_TABLES = re.compile(r"^(duckdb_|pragma_|pg_settings$)", re.IGNORECASE)
# DuckDB 1.5 opens the files of IMPORT DATABASE while it parses.
_PARSER = duckdb.connect(":memory:", config={"enable_external_access": False})


@lru_cache(maxsize=1024)  # dashboards send the same statements again and again
def check(sql: str) -> None:
    """Let a statement pass, or raise Refused, or ProgrammingError where it is no SQL."""
    try:
        with _PARSER.cursor() as cursor:
            found = cursor.extract_statements(sql)
    except duckdb.ParserException as error:
        raise translate(error) from error
    except duckdb.Error as error:
        raise Refused(f"this statement is not served: {error}") from error
    if len(found) != 1:
        raise Refused(f"one statement at a time: this text has {len(found)}")
    kind = found[0].type
    text = found[0].query
    if kind == duckdb.StatementType.EXPLAIN:
        head = HEAD.match(text)
        if head is None or not head["explain"]:
            raise Refused("this form of EXPLAIN is not served")
        check(text[head.end() :])
        return
    if kind == duckdb.StatementType.MULTI:
        raise Refused(
            "PIVOT without its values makes a type of them first, which is not served: "
            "write them, as in PIVOT … ON epoch IN (0, 1, 2) USING …"
        )
    if kind != duckdb.StatementType.SELECT:
        raise Refused(
            f"{_name(kind)} is not served: sessions from outside can read (SELECT, FROM, WITH, "
            "VALUES, DESCRIBE, SHOW TABLES, SUMMARIZE, EXPLAIN) and nothing else"
        )
    for node in _nodes(_tree(text)):
        _check_node(node)


def _tree(text: str) -> Any:
    with _PARSER.cursor() as cursor:
        rows = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()
    tree = json.loads(rows[0][0])
    if tree.get("error"):
        raise Refused(f"this statement is not served: {tree.get('error_message')}")
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a tree, without recursion: a statement can be deeper than Python's stack."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _check_node(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if not isinstance(kind, str):
        return
    if kind.endswith("_NODE") and kind not in _NODES:
        raise Refused("this statement would write, which is not served")
    if kind == "TABLE_FUNCTION":
        name = str((node.get("function") or {}).get("function_name", "")).lower()
        if name not in _TABLE_FUNCTIONS:
            raise Refused(f"the table function {name!r} is not served")
    elif kind == "BASE_TABLE":
        name = str(node.get("table_name", ""))
        ours = node.get("schema_name") == "pg"  # sql/pg_catalog.sql
        if not ours and _TABLES.match(name) and name.lower() not in _TABLE_FUNCTIONS:
            raise Refused(f"the table {name!r} is not served")
    name = str(node.get("function_name") or "").lower()
    if name in _FORBIDDEN or name.startswith("__internal"):
        raise Refused(f"the function {name!r} is not served")


def _name(kind: Any) -> str:
    return str(kind).rpartition(".")[2].replace("_", " ")
