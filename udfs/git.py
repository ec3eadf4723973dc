"""What git knows of the project's versions: commits, the files of a version, their text."""

from __future__ import annotations

from typing import Any

from flordb.store import versions
from flordb.store.project import Project
from flordb.udfs import Function

_COMMITS = "STRUCT(version TEXT, parents TEXT[], author TEXT, tstamp TIMESTAMP, message TEXT)[]"
_FILES = "STRUCT(filename TEXT, bytes BIGINT, blob TEXT)[]"


def functions(project: Project) -> list[Function]:
    """The functions about ``project``; outside a git repository they find nothing."""

    def commits() -> list[dict[str, Any]]:
        return versions.commits(project.root) if project.has_git else []

    def files(version: str) -> list[dict[str, Any]]:
        return versions.files(project.root, version) if project.has_git else []

    def source(version: str, filename: str) -> str | None:
        return versions.source(project.root, version, filename) if project.has_git else None

    return [
        Function("flor_git_commits", commits, (), _COMMITS, volatile=True),
        Function("flor_git_files", files, ("VARCHAR",), _FILES),
        Function("git_source", source, ("VARCHAR", "VARCHAR"), "VARCHAR"),
    ]
