"""What a worker imports is the version's: its patched files, and never the working tree's of today.

A project may be installed in editable form, or be on ``PYTHONPATH`` by its absolute path. In an
overlay these lead to the version's files. In a workspace of links they lead to the user's own,
which may be of another version: there they are led to the workspace.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from flordb.replay.observe import PatchedLoader, Ranges


class VersionFinder(importlib.abc.MetaPathFinder):
    """Finds modules as the other finders do, and has those of the project be the version's.

    Parameters: ``ranges``, the inserted statements' lines (first, last) by absolute path;
    ``project`` and ``workspace``, the folders, equal in an overlay.
    """

    def __init__(self, ranges: Mapping[str, Ranges], project: str, workspace: str) -> None:
        self._ranges = ranges
        self._workspace = workspace
        self._projects = [os.path.join(p, "") for p in {project, os.path.realpath(project)}]
        if os.path.realpath(workspace) in map(os.path.realpath, self._projects):
            self._projects = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = self._found(fullname, path, target)
        if spec is None:
            return None
        if self._projects:
            spec = self._of_version(spec)
        ranges = self._ranges.get(os.path.realpath(spec.origin)) if spec.origin else None
        if spec.origin is None or ranges is None:
            return spec
        return importlib.util.spec_from_file_location(
            fullname,
            spec.origin,
            loader=PatchedLoader(fullname, spec.origin, ranges),
            submodule_search_locations=spec.submodule_search_locations,
        )

    def of_version(self, path: str) -> str:
        """Where the version has a file or folder of the project's; others are what they are."""
        for project in self._projects:
            if os.path.join(path, "").startswith(project) and not is_installed(path):
                return os.path.join(self._workspace, path[len(project) :])
        return path

    def _found(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None

    def _of_version(self, spec: ModuleSpec) -> ModuleSpec:
        places = spec.submodule_search_locations
        mapped = None if places is None else [self.of_version(place) for place in places]
        if not spec.has_location or spec.origin is None:
            if places is not None and mapped != list(places):
                spec.submodule_search_locations = mapped
            return spec
        origin = self.of_version(spec.origin)
        if origin == spec.origin:
            return spec
        if not os.path.exists(origin):
            raise ModuleNotFoundError(
                f"the version has no module {spec.name!r}: {spec.origin} is newer", name=spec.name
            )
        found = importlib.util.spec_from_file_location(
            spec.name, origin, submodule_search_locations=mapped
        )
        assert found is not None
        return found


def is_installed(path: str) -> bool:
    """Whether a file is of an environment, which may be in the project's folder."""
    return "site-packages" in path.split(os.sep) or path.startswith(sys.prefix + os.sep)
