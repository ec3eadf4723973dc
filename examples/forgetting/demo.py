"""Catastrophic forgetting, seen in hindsight: ``make demo``.

Makes a project with a summer of trainings in which nobody logged how well eights are read, adds the
statements to the newest script only, and asks for the columns.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight import F1_EIGHT, GRAD_NORM, RECALL_EIGHT, Statement
from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from summer import SUMMER, build

_MOST_ROWS = 20


@dataclass(frozen=True)
class Question:
    """A statement in hindsight, and a query for its column."""

    title: str
    statement: Statement
    sql: str
    meaning: str


FORGETTING = Question(
    "When did the network forget its eights?",
    F1_EIGHT,
    "SELECT tstamp, f1_score, f1_eight FROM flor\nWHERE tstamp >= '2023-06-01' ORDER BY tstamp",
    "The statement stands after the training, so each run's last snapshot is enough (suffix scan).",
)
BY_EPOCH = Question(
    "Did it happen at once, or epoch by epoch?",
    RECALL_EIGHT,
    "SELECT tstamp, epoch, accuracy, recall_eight FROM flor\n"
    "WHERE tstamp BETWEEN '2023-07-30' AND '2023-08-20'\nORDER BY tstamp, epoch",
    "It stands in the epoch's body: each epoch, its steps skipped by snapshot (validation scan).",
)
GRADIENTS = Question(
    "How large were the gradients while it happened?",
    GRAD_NORM,
    "SELECT epoch, step, loss, grad_norm FROM flor\n"
    "WHERE tstamp = '2023-08-14 09:00:00' AND epoch BETWEEN 2 AND 3\nORDER BY epoch, step",
    "It stands in the nested loop: these two epochs run again from a snapshot (range scan).",
)
QUESTIONS = (FORGETTING, BY_EPOCH, GRADIENTS)


@dataclass(frozen=True)
class Answer:
    """The rows (a pandas DataFrame), what the plan promised, and what it took."""

    rows: Any
    plan: Any
    seconds: float


def main() -> None:
    arguments = _arguments()
    console = Console(highlight=False)
    out = arguments.out / "forgetting.png"
    with _project_folder(arguments.keep) as folder:
        began = time.perf_counter()
        record(folder, console)
        ready = time.perf_counter()
        for question in QUESTIONS:
            add_statement(folder, question, console)
            ask(folder, question, console)
        console.print()
        console.rule("[bold]The first question again: all of it is stored by now")
        answer = ask(folder, FORGETTING, console)
        draw(answer.rows, out)
        done = time.perf_counter()
        console.print(f"\nThe picture of the forgetting: [bold]{out}[/]", soft_wrap=True)
        console.print(f"The summer took {ready - began:.0f} s, all questions {done - ready:.0f} s.")
        if arguments.keep:
            _tell_how_to_open(folder, console)


def record(folder: Path, console: Console) -> None:
    """The summer: fourteen versions, each trained on its date."""
    console.rule("[bold]A summer of trainings")
    console.print(
        "Every two weeks a network that reads handwritten digits goes on learning from a new batch."
        f"\nFourteen versions of its code, {len(SUMMER)} runs, each recorded by flor:"
    )
    with console.status("training …") as status:
        for training in build(folder):
            change = training.version.partition("-")[2].replace("-", " ")
            console.print(f"  {training.started:%Y-%m-%d}  {change}")
            status.update(f"training … ({training.version[:2]} of {len(SUMMER)})")


def add_statement(folder: Path, question: Question, console: Console) -> None:
    """Add a question's statement to the newest script."""
    console.print()
    console.rule(f"[bold]{question.title}")
    console.print("Nobody logged it. One line, in the newest version only:")
    number, line = question.statement.add_to(folder / "train.py")
    console.print(f"[dim]train.py:{number}[/]")
    console.print(f"+{line}", style="green", soft_wrap=True, markup=False)
    console.print(question.meaning)


def ask(folder: Path, question: Question, console: Console) -> Answer:
    """Ask a question, and show the query, its plan and price, and the answer."""
    import flordb

    console.print(Padding(Syntax(question.sql, "sql", background_color="default"), (1, 2)))
    # Generous: a busy machine takes its time.
    with flordb.connect(folder, budget="10 min") as connection:
        plan = connection.plan(question.sql)
        console.print(connection.explain(question.sql), style="cyan", soft_wrap=True, markup=False)
        began = time.perf_counter()
        rows = connection.execute(question.sql).df()
        seconds = time.perf_counter() - began
    console.print(f"It took {seconds:.1f} s.\n")
    console.print(_table(rows))
    return Answer(rows, plan, seconds)


def draw(rows: Any, out: Path) -> None:
    """Save the picture of the forgetting: what was logged, and what hindsight adds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(rows["tstamp"], rows["f1_score"], "o-", color="0.35", label="f1_score: logged")
    axes.plot(rows["tstamp"], rows["f1_eight"], "o--", color="C3", label="f1_eight: in hindsight")
    axes.set_ylim(0, 1)
    axes.set_ylabel("F1")
    axes.legend(loc="lower left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.autofmt_xdate()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)


def _table(rows: Any) -> Table:
    table = Table(box=None, pad_edge=True, header_style="bold")
    for name in rows.columns:
        table.add_column(name, justify="right")
    shown = rows.head(_MOST_ROWS)
    for row in shown.itertuples(index=False):
        table.add_row(*(_text(value) for value in row))
    if len(rows) > len(shown):
        table.add_row(*("…" for _ in rows.columns))
        table.caption = f"{len(rows)} rows"
    return table


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:%Y-%m-%d}" if hasattr(value, "year") else str(value)


@contextlib.contextmanager
def _project_folder(keep: bool) -> Iterator[Path]:
    outer = Path(tempfile.mkdtemp(prefix="flordb-demo-"))
    folder = outer / "digits"
    folder.mkdir()
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(outer, ignore_errors=True)


def _tell_how_to_open(folder: Path, console: Console) -> None:
    database = folder / ".flor" / "flordb.duckdb"
    query = "FROM flor_pivot(['f1_score', 'f1_eight']) ORDER BY tstamp"
    console.print(f"The project is in [bold]{folder}[/]. In the DuckDB shell:", soft_wrap=True)
    console.print(f'  duckdb -readonly {database} "{query}"', soft_wrap=True, markup=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder of the picture (default: out)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the project, and say where it is")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise SystemExit(str(error)) from error
