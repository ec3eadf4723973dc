"""The progress bar of an acquisition: on stderr where a person looks at it, or in the notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flordb.replay.execute import Progress


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """A callback that draws the progress; None where nobody would see it."""
    display = _notebook()
    if display is not None:
        with _in_notebook(display) as show:
            yield show
    elif sys.stderr.isatty():
        with _on_terminal() as show:
            yield show
    else:
        yield None


def _notebook() -> Any:
    """IPython's function ``display``, if this is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display


@contextmanager
def _in_notebook(display: Any) -> Iterator[Callable[[Progress], None]]:
    handle = display({"text/html": ""}, raw=True, display_id=True)

    def show(progress: Progress) -> None:
        total = max(progress.seconds_total, 0.001)
        text = f"replaying {progress.label}: {progress.done} of {progress.total}"
        bar = f'<progress value="{progress.seconds_done:.2f}" max="{total:.2f}"></progress>'
        handle.update({"text/html": f"{bar} {escape(text)}"}, raw=True)

    try:
        yield show
    finally:
        handle.update({"text/html": ""}, raw=True)


@contextmanager
def _on_terminal() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[runs]}"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("replaying", total=None, runs="", left="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=f"replaying {progress.label}",
                total=max(progress.seconds_total, 0.001),
                completed=progress.seconds_done,
                runs=f"{progress.done}/{progress.total}",
                left=f"{progress.seconds_left:.0f} s left",
            )

        yield show
