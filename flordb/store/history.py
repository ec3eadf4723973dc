"""The project's git history, read and written by plumbing only.

Recording never touches what is the user's: the index is a copy, commits are made with
``commit-tree``, refs move by compare-and-swap, hooks, signing and gc stay out. A *version* is the
commit that holds the exact code of a run (parent: HEAD); a run's *record* is the commit on
``flor/<branch>`` that adds the run file to that code (parents: the branch's tip, the version).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flordb.errors import GitError
from flordb.store.git import git, git_line, git_line_or_none, git_lines
from flordb.store.project import STORE, Project
from flordb.store.runfile import compressed, read_run

_KEEP = "refs/flor/runs/"
_SWAPS = 50


@dataclass(frozen=True)
class Version:
    """The exact code of a run in git. ``skipped``: untracked files left out for their size."""

    commit: str
    branch: str
    skipped: tuple[str, ...] = ()


def write_version(project: Project, run_file: str, max_untracked_bytes: int) -> Version:
    """Write the code as it stands in the working tree as a commit, and keep it from gc.

    Parameters: ``run_file``, the run file's name, under which the commit is kept alive until
    `commit_run`; ``max_untracked_bytes``, the largest untracked file that belongs to a version.
    Equal code on an equal HEAD gives an equal commit. Raises GitError.
    """
    root = project.root
    head, date, branch, users = _checkout(root)
    with _scratch(project) as folder:
        index = folder / "index"
        if users.exists():
            # git trusts the index's cached file times relative to the index file's own time.
            shutil.copy2(users, index)
        env = {"GIT_INDEX_FILE": str(index)}
        git(root, "add", "--update", "--", ".", env=env)
        small, skipped = _untracked(root, env, max_untracked_bytes)
        if small:
            listing = b"\0".join(small) + b"\0"
            git(root, "update-index", "--add", "-z", "--stdin", text=listing, env=env)
        tree = git_line(root, "write-tree", env=env)
    parents = ("-p", head) if head else ()
    commit = _commit(root, tree, parents, "flordb: the code of a run", date=date)
    git(root, "update-ref", _KEEP + run_file, commit)
    return Version(commit, branch, skipped)


def _checkout(root: Path) -> tuple[str | None, str, str, Path]:
    """HEAD's commit (None: there is none yet) and date, the branch, and the user's index file.

    In as few calls as possible: starting git takes longer than what it does here.
    """
    asked = ("--no-patch", "--no-show-signature", "--format=%H @%ct +0000", "HEAD^{commit}")
    shown = git_line_or_none(root, "show", *asked)
    if shown is None:
        branch = git_line_or_none(root, "symbolic-ref", "--quiet", "--short", "HEAD")
        index = git_line(root, "rev-parse", "--git-path", "index")
        return None, "@0 +0000", branch or "detached", root / index
    head, date = shown.split(" ", 1)
    index, ref = git_lines(root, "rev-parse", "--git-path", "index", "--symbolic-full-name", "HEAD")
    name = ref.removeprefix("refs/heads/")
    return head, date, name if name != ref else "detached", root / index


@contextmanager
def _scratch(project: Project) -> Iterator[Path]:
    """A folder for an index file of our own.

    Not a TemporaryDirectory: those are removed when the interpreter begins to exit, while the
    thread that writes the version of a short script is still at work in it.
    """
    project.temporary.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=project.temporary))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _untracked(
    root: Path, env: Mapping[str, str], limit: int
) -> tuple[list[bytes], tuple[str, ...]]:
    """(paths to add, paths too large) of the untracked, not ignored files."""
    listed = git(root, "ls-files", "--others", "--exclude-standard", "-z", env=env)
    small: list[bytes] = []
    skipped: list[str] = []
    for path in filter(None, listed.split(b"\0")):
        name = os.fsdecode(path)
        # A trailing slash is a repository inside this one: git itself would add it as a link.
        if name.endswith("/"):
            skipped.append(name)
            continue
        try:
            size = (root / name).lstat().st_size
        except OSError:
            continue  # gone since it was listed
        if size <= limit:
            small.append(path)
        else:
            skipped.append(name)
    return small, tuple(skipped)


def _commit(
    root: Path, tree: str, parents: Sequence[str], message: str, date: str | None = None
) -> str:
    env = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
    arguments = ("commit-tree", tree, *parents, "-m", message)
    try:
        return git_line(root, *arguments, env=env)
    except GitError as error:
        if "ident" not in str(error) and "tell me who you are" not in str(error):
            raise
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": "flordb", f"GIT_{role}_EMAIL": "flordb@localhost"}
    return git_line(root, *arguments, env=env)


def commit_run(project: Project, version: Version, run_file: str, path: Path) -> str:
    """Commit a run file with its code on flor's branch.

    Parameters: ``run_file``, what it was called when the run began; ``path``, where it is now.
    Returns the commit. Raises GitError, OSError.
    """
    root = project.root
    message = f"flordb: run {run_file}"
    files = {path.name: path.read_bytes()}
    commit = _commit_files(project, version.commit, version.branch, files, message)
    git(root, "update-ref", "-d", _KEEP + run_file)
    return commit


def commit_replays(project: Project, files: Mapping[str, bytes]) -> str | None:
    """Commit replay files (name to text) on flor's branch of the current branch.

    Returns the commit, or None where there is nothing to commit or no flor branch yet.
    """
    branch = git_line_or_none(project.root, "symbolic-ref", "--quiet", "--short", "HEAD")
    branch = branch or "detached"
    tip = git_line_or_none(project.root, "rev-parse", "--verify", "-q", _ref(project.root, branch))
    if not files or tip is None:
        return None
    return _commit_files(project, tip, branch, files, "flordb: values acquired by replay")


def _commit_files(
    project: Project, base: str, branch: str, files: Mapping[str, bytes], message: str
) -> str:
    """Commit ``base``'s tree with run files added; parents: flor's branch and ``base``."""
    root = project.root
    with _scratch(project) as folder:
        copies = [folder / str(number) for number in range(len(files))]
        for copy, data in zip(copies, files.values(), strict=True):
            copy.write_bytes(data)
        listing = "".join(f"{copy}\n" for copy in copies)
        hashed = git(root, "hash-object", "-w", "--no-filters", "--stdin-paths", text=listing)
        blobs = dict(zip(files, hashed.decode().split(), strict=True))
        lines = [f"100644 {blob}\t{STORE}/runs/{name}\n" for name, blob in blobs.items()]
        env = {"GIT_INDEX_FILE": str(folder / "index")}
        git(root, "read-tree", base, env=env)
        git(root, "update-index", "--add", "--index-info", text="".join(lines), env=env)
        tree = git_line(root, "write-tree", env=env)
    ref = _ref(root, branch)
    for _ in range(_SWAPS):
        tip = git_line_or_none(root, "rev-parse", "--verify", "--quiet", ref)
        parents = [p for p in dict.fromkeys((tip, base)) if p]
        flags = [flag for parent in parents for flag in ("-p", parent)]
        commit = _commit(root, tree, flags, message)
        try:
            # The old value makes it a compare-and-swap: another run may land at the same time.
            git(root, "update-ref", ref, commit, tip or "0" * len(commit))
        except GitError as error:
            swapped = error
            continue
        return commit
    raise GitError(f"{ref} kept moving while a run was committed: {swapped}")


def _ref(root: Path, branch: str) -> str:
    """Flor's branch for the user's branch.

    It is under ``refs/flor/heads/`` where ``flor/<branch>`` cannot be had: a branch named ``flor``
    is in the way, or the flor branch is checked out somewhere, so that moving it would touch the
    user's files.
    """
    hidden, shown = f"refs/flor/heads/{branch}", f"refs/heads/flor/{branch}"
    listing = ("--format=%(refname) %(worktreepath)", "refs/heads/flor", shown)
    found = dict(line.split(" ", 1) for line in git_lines(root, "for-each-ref", *listing))
    if "refs/heads/flor" in found or found.get(shown):
        return hidden
    return shown


def _flor_refs(root: Path) -> dict[str, str]:
    """The flor branches, local and remote, and the commits that they are at."""
    places = ("refs/heads/flor/", "refs/flor/heads/", "refs/remotes/")
    listed = git_line(root, "for-each-ref", "--format=%(objectname) %(refname)", *places)
    found = {ref: commit for commit, ref in (line.split(" ", 1) for line in listed.splitlines())}
    return {
        ref: commit
        for ref, commit in found.items()
        if not ref.startswith("refs/remotes/") or "/flor/" in ref
    }


_listed: dict[Path, tuple[dict[str, str], dict[str, str]]] = {}
"""By root, the branches of the last listing of run files, and what it gave."""


def list_run_files(root: Path) -> dict[str, str]:
    """Run file name to blob id, over all flor branches, local and remote. Raises GitError."""
    refs = _flor_refs(root)
    if not refs:
        return {}
    known = _listed.get(root)
    if known is None or known[0] != refs:
        known = _listed[root] = refs, _run_files_at(root, refs)
    return known[1]


def _run_files_at(root: Path, refs: Iterable[str]) -> dict[str, str]:
    raw = git(
        root,
        *("log", "--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "-z"),
        *("--format=", "--diff-filter=AM"),
        *(*refs, "--", f"{STORE}/runs"),
    )
    fields = [part.strip(b"\n") for part in raw.split(b"\0")]
    found: dict[str, str] = {}
    position = 0
    while position + 1 < len(fields):
        if not fields[position].startswith(b":"):
            position += 1
            continue
        blob = fields[position].split()[3].decode()
        name = os.fsdecode(fields[position + 1]).rsplit("/", 1)[-1]
        found.setdefault(name, blob)  # the log goes from the newest to the oldest
        position += 2
    return found


def checkout(project: Project, commit: str, folder: Path) -> None:
    """Put the files of a version into an empty folder. Raises GitError."""
    with _scratch(project) as temporary:
        env = {"GIT_INDEX_FILE": str(temporary / "index"), "GIT_WORK_TREE": str(folder)}
        git(project.root, "read-tree", "--no-sparse-checkout", "--reset", "-u", commit, env=env)


def bundle(project: Project, versions: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    """A git bundle with the files of versions, without what came before them.

    Returns it and, by version, the commit in it that holds the same files. Raises GitError.
    """
    root = project.root
    with _scratch(project) as folder:
        git(folder, "init", "--quiet", "--bare", ".")
        objects = root / git_line(root, "rev-parse", "--git-path", "objects")
        (folder / "objects" / "info").mkdir(exist_ok=True)
        (folder / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        commits = {}
        for version in versions:
            tree = git_line(folder, "rev-parse", "--verify", f"{version}^{{tree}}")
            commits[version] = _commit(
                folder, tree, (), "flordb: the code of a run", date="@0 +0000"
            )
            git(folder, "update-ref", f"refs/heads/{commits[version]}", commits[version])
        git(folder, "bundle", "create", "--quiet", "versions", "--all")
        return (folder / "versions").read_bytes(), commits


def unbundle(folder: Path, data: bytes) -> None:
    """Make a repository of a bundle's commits in an empty folder. Raises GitError."""
    git(folder, "init", "--quiet", ".")
    file = folder / ".git" / "versions.bundle"
    file.write_bytes(data)
    git(folder, "fetch", "--quiet", str(file), "refs/heads/*:refs/flor/bundle/*")
    file.unlink()


def tracked_or_source(root: Path) -> list[str]:
    """The paths that git tracks, and the Python files that it neither tracks nor ignores."""
    listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-t", "-z")
    pairs = (line.split(" ", 1) for line in _paths(listed))
    return [path for tag, path in pairs if tag != "?" or path.endswith(".py")]


def untracked_paths(root: Path) -> tuple[list[str], list[str]]:
    """(ignored, not ignored) paths that git does not track; whole folders as ``name/``."""
    others = git(root, "ls-files", "--others", "--exclude-standard", "-z")
    return ignored_paths(root), _paths(others)


def ignored_paths(root: Path) -> list[str]:
    """The paths that git ignores; whole folders as ``name/``."""
    listed = git(
        root, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z"
    )
    return _paths(listed)


def _paths(listed: bytes) -> list[str]:
    return [os.fsdecode(path) for path in listed.split(b"\0") if path]


def kept_runs(root: Path) -> dict[str, str]:
    """Runs whose record is not committed yet: name to the version that is kept alive for it."""
    listed = git_line(root, "for-each-ref", "--format=%(refname) %(objectname)", _KEEP)
    pairs = (line.split() for line in listed.splitlines())
    return {ref.removeprefix(_KEEP): commit for ref, commit in pairs}


def version_of(root: Path, run_file: str) -> str | None:
    """The version of a run whose run file does not say it (it was cut off before that line)."""
    kept = kept_runs(root).get(run_file)
    refs = _flor_refs(root)
    if kept is not None or not refs:
        return kept
    message = f"--grep=^flordb: run {re.escape(run_file)}$"
    parents = git_line(root, "log", "-1", "--format=%P", message, *refs).split()
    return parents[-1] if parents else None


def settle(project: Project, ended: Iterable[str]) -> int:
    """Commit the runs that ended without committing themselves (killed, or git was busy).

    Parameters: ``ended``, names of run files that no process writes any more. Returns how many
    were committed.
    """
    kept = kept_runs(project.root)
    count = 0
    for name in ended:
        path = project.runs / name
        if not path.exists():
            path = compressed(path)
        if name in kept and path.exists():
            branch = _branch_of(path)
            commit_run(project, Version(kept[name], branch), name, path)
            count += 1
    return count


def _branch_of(path: Path) -> str:
    versions = list(read_run(path).of_kind("version"))
    return str(versions[-1].get("branch") or "detached") if versions else "detached"
