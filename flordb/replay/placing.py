"""Puts the working tree's log statements into the old versions of the code that a plan deals with.

What runs share (sources, parsed programs, matched versions, patches) is worked out once a plan.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flordb.analysis.program import Program
from flordb.analysis.statements import LogStatement, statements_of
from flordb.errors import GitError, ReplayError
from flordb.replay.choices import chosen, mixed, read_choices
from flordb.replay.propagate import Matcher, Patch, Refusal, Site, merge
from flordb.store.project import Project
from flordb.store.sources import read_sources, read_sources_of, working_sources


class Placing:
    """The old versions of a project's code, and the new statements in them."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._choices = read_choices(project)
        self._newest: dict[str, str] | None = None
        self._old: dict[str, dict[str, str]] = {}
        self._statements: dict[str, tuple[LogStatement, ...]] = {}
        self._programs: dict[tuple[str, str], Program] = {}
        self._new_modules: dict[str, dict[str, str]] = {}
        self._matchers: dict[tuple[str, str], Matcher] = {}
        self._patches: dict[tuple[str, str, str], Patch | Refusal] = {}

    def read_ahead(self, versions: Iterable[str]) -> None:
        """Read the sources of versions at once, which takes less long than one by one."""
        lacking = [version for version in dict.fromkeys(versions) if version not in self._old]
        if lacking:
            self._old |= read_sources_of(self.project.root, lacking)

    def newest(self) -> dict[str, str]:
        """The sources of the working tree, path to text."""
        if self._newest is None:
            try:
                self._newest = working_sources(self.project.root)
            except GitError:
                self._newest = {}
        return self._newest

    def old(self, version: str) -> dict[str, str]:
        """The sources of a version. Raises GitError."""
        if version not in self._old:
            self._old[version] = read_sources(self.project.root, version)
        return self._old[version]

    def program(self, version: str, script: str) -> Program:
        """A script of a version with what it imports. Raises GitError, and ReplayError where the
        version has no such script."""
        key = (version, script)
        if key not in self._programs:
            old = self.old(version)
            if script not in old:
                raise ReplayError(f"the version {version[:10]} has no {script}")
            self._programs[key] = Program(old, script)
        return self._programs[key]

    def statements(self, script: str) -> tuple[LogStatement, ...]:
        """The log statements that a script of the working tree reaches."""
        if script not in self._statements:
            self._statements[script] = mixed(statements_of(self.newest(), script), self._choices)
        return self._statements[script]

    def _logged(self, script: str, name: str) -> list[LogStatement]:
        return [s for s in self.statements(script) if s.logs(name)]

    def may_choose(self, script: str, version: str, name: str) -> bool:
        """Whether the user may choose a place for a name in a version, and has not yet."""
        known = chosen(self._choices, name, self.old(version))
        return known is None and bool(self._logged(script, name))

    def patch(self, script: str, version: str, name: str) -> Patch | Refusal:
        """The statements that log a name, in a version: those of them that have a place there.

        Raises GitError and ReplayError as `program`.
        """
        found = self._logged(script, name)
        if not found:
            return Refusal(f"no statement that {script} reaches logs {name!r} in the working tree")
        key = (version, script, name)
        if key not in self._patches:
            self._patches[key] = self._placed(script, version, name, found)
        return self._patches[key]

    def _placed(
        self, script: str, version: str, name: str, statements: Sequence[LogStatement]
    ) -> Patch | Refusal:
        matcher, old = self._matcher(version, script), self.old(version)
        at = chosen(self._choices, name, old)
        answers = [matcher.propagate(Site(s.file, s.lineno), at=at) for s in statements]
        placed = [answer for answer in answers if isinstance(answer, Patch)]
        if not placed:
            return next(answer for answer in answers if isinstance(answer, Refusal))
        return placed[0] if len(placed) == 1 else merge(old, placed)

    def _matcher(self, version: str, script: str) -> Matcher:
        key = (version, script)
        if key not in self._matchers:
            if script not in self._new_modules:
                new = self.newest()
                self._new_modules[script] = _texts(Program(new, script), new)
            old = _texts(self.program(version, script), self.old(version))
            self._matchers[key] = Matcher(old, self._new_modules[script])
        return self._matchers[key]


def _texts(program: Program, sources: Mapping[str, str]) -> dict[str, str]:
    """The texts of the modules that a script imports from the project, and its own."""
    return {path: sources[path] for path in (*program.modules, *program.broken)}


def third_party(program: Program, sources: Mapping[str, str]) -> set[str]:
    """The modules that a program imports and that are not the project's own."""
    found: set[str] = set()
    for module in program.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # What is imported from a package may be a module of it.
                found.add(node.module)
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {Path(path).stem for path in sources} | {Path(path).parts[0] for path in sources}
    return {name for name in found if name.partition(".")[0] not in (*own, "__future__")}
