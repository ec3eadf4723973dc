"""The progress bar of an acquisition: on stderr, only where a person looks at it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flordb.replay.execute import Progress


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """A callback that draws the progress; None where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[runs]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("replaying", total=None, runs="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=f"replaying {progress.label}",
                total=max(progress.seconds_total, 0.001),
                completed=progress.seconds_done,
                runs=f"{progress.done}/{progress.total}",
            )

        yield show
