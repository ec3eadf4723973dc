"""Where a project's things are: its root folder, and the files of its store below it.

The root of a script is the top folder of the git repository that holds it; outside a repository,
the script's own folder. The store is ``.flor/`` in the root. It ignores itself in git, so
that ``git status`` never shows it; its run files reach git through flor's own branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flordb.errors import ProjectError

STORE = ".flor"


@dataclass(frozen=True)
class Project:
    """A project's root folder and whether git keeps its history."""

    root: Path
    has_git: bool

    @property
    def projid(self) -> str:
        """The name of the root folder; the first part of a run's identity."""
        return self.root.name or "root"

    @property
    def store(self) -> Path:
        return self.root / STORE

    @property
    def runs(self) -> Path:
        """The folder of the run files."""
        return self.store / "runs"

    @property
    def database(self) -> Path:
        """The DuckDB file; derived from the run files."""
        return self.store / "flordb.duckdb"

    @property
    def objects(self) -> Path:
        """Tensors and pickles by content hash."""
        return self.store / "objects"

    @property
    def values(self) -> Path:
        """Large logged arrays by content hash. Apart from the objects of snapshots, because they
        are what the user logged: nothing ever removes them to make room."""
        return self.store / "values"

    @property
    def snapshots(self) -> Path:
        """The manifests of the snapshots, a folder a run."""
        return self.store / "snapshots"

    @property
    def temporary(self) -> Path:
        return self.store / "tmp"

    def prepare(self) -> None:
        """Make the store's folders. Raises OSError where they cannot be made."""
        for folder in (self.runs, self.objects, self.snapshots, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
        ignore = self.store / ".gitignore"
        if not ignore.exists():
            ignore.write_text(
                "# flordb's store: its run files reach git on the flor/ branches\n*\n"
            )


def git_root(folder: Path) -> Path | None:
    """The top folder of the git working tree that ``folder`` is in, or None."""
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists():
            return candidate
    return None


def project_of_script(script: Path | None, cwd: Path) -> Project:
    """The project that a running script belongs to.

    Parameters: ``script``, the script's absolute path (None in notebooks and ``python -c``);
    ``cwd``, the working folder, whose repository counts when the script is in none.
    """
    places = [script.parent] if script is not None else []
    for place in (*places, cwd):
        root = git_root(place)
        if root is not None:
            return Project(root, has_git=True)
    return Project(places[0] if places else cwd, has_git=False)


def find_project(start: Path | None = None) -> Project:
    """The project around a folder, for commands and queries.

    Raises ProjectError where neither a store nor a git repository is found.
    """
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / STORE).is_dir() or (candidate / ".git").exists():
            return Project(candidate, has_git=(candidate / ".git").exists())
    raise ProjectError(
        f"No flordb project at or above {folder}: neither a .flor folder nor a git repository. "
        "Run a script that calls flor.log first, or name the project's folder."
    )
