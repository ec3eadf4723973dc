"""In a real IPython shell: ``%flor``, ``%%flor``, tables; JupySQL and other readers of DB-API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import flordb
from flordb.query.cursor import Cursor
from flordb.query.errors import ProgrammingError
from flordb.store.project import Project
from tests.query.test_candidates import CODE, write_run

interactiveshell = pytest.importorskip("IPython.core.interactiveshell")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path / "p", has_git=False)
    made.prepare()
    (made.root / "train.py").write_text(CODE)
    (made.root / "pyproject.toml").write_text("")
    write_run(made, 1, 0.5)
    write_run(made, 2, 0.25)
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def shell(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("IPYTHONDIR", str(project.root / "ipython"))
    made = interactiveshell.InteractiveShell.instance()
    yield made
    made.reset()
    interactiveshell.InteractiveShell.clear_instance()


def run(shell: Any, cell: str) -> Any:
    done = shell.run_cell(cell)
    done.raise_error()
    return done.result


def test_magics(shell: Any) -> None:
    run(shell, "%load_ext flordb")
    result = run(shell, "%flor SELECT lr FROM flor ORDER BY lr")
    assert isinstance(result, Cursor)
    data, _ = shell.display_formatter.format(result)
    assert "<th>lr</th>" in data["text/html"]
    assert "<td>0.25</td>" in data["text/html"]
    assert "2 rows" in data["text/html"]
    assert "│  0.25 │" in data["text/plain"] or "│   0.25 │" in data["text/plain"]
    assert repr(result) == "<Cursor: 2 rows of 1 column>"
    assert result.fetchall() == [(0.25,), (0.5,)]
    run(shell, "low = 0.3\nimport pandas as pd\nnotes = pd.DataFrame({'lr': [0.5], 'n': ['x<y']})")
    cell = "%%flor --acquire never --output frame\nSELECT n, f1 FROM flor JOIN notes USING (lr)\n"
    assert run(shell, cell + "WHERE lr > $low") is None
    assert list(shell.user_ns["frame"].columns) == ["n", "f1"]
    html = run(shell, "%flor SELECT n, NULL AS none FROM notes")._repr_html_()
    assert "x&lt;y" in html
    assert "NULL" in html
    assert run(shell, "%flor CREATE TABLE mine AS SELECT 1 AS x") is None
    assert run(shell, "%flor FROM mine").fetchall() == [(1,)]


def test_an_error_is_shown_without_a_traceback(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%load_ext flordb")
    with pytest.raises(flordb.UnknownName):
        run(shell, "%flor SELECT acd FROM flor")
    shown = capsys.readouterr().out
    assert 'UnknownName: Binder Error: Referenced column "acd"' in shown
    assert "Candidate bindings" in shown
    assert "connection.py" not in shown


def test_magics_say_what_is_wrong(shell: Any) -> None:
    run(shell, "%load_ext flordb")
    for cell, said in [
        ("%flor --speed 3 SELECT 1", "no option --speed"),
        ("%%flor --acquire always\nSELECT lrr FROM flor", "lr"),
    ]:
        with pytest.raises(ProgrammingError, match=said):
            run(shell, cell)


def test_a_plan_is_a_table(shell: Any) -> None:
    run(shell, "%load_ext flordb")
    plan = run(shell, "import flordb\nflordb.connect().plan('SELECT f1 FROM flor')")
    data, _ = shell.display_formatter.format(plan)
    assert "Cannot be had" in data["text/html"]
    assert "f1 of train.py" in data["text/html"]


JUPYSQL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def run(cell):
    done = shell.run_cell(cell)
    done.raise_error()
    return done.result
run("%load_ext sql")
run("import flordb; conn = flordb.connect(acquire='never')")
run("%config SqlMagic.displaycon = False")
run("%config SqlMagic.feedback = 0")
run("%sql conn --alias flor")
print(run("%sql SELECT lr FROM flor ORDER BY lr").DataFrame()["lr"].tolist())
print(run("%%sql\\nSELECT max(lr) AS best FROM flor").DataFrame()["best"].tolist())
"""


def test_jupysql(project: Project) -> None:
    # In a process of its own: its package is called `sql`, like a folder of this repository.
    pytest.importorskip("IPython")
    done = subprocess.run(
        [sys.executable, "-P", "-c", JUPYSQL],
        cwd=project.root,
        env={**os.environ, "IPYTHONDIR": str(project.root / "ipython")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "not an IPython extension" in done.stdout or "No module named 'sql'" in done.stdout:
        pytest.skip("jupysql is not installed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == [
        "[0.25, 0.5]",
        "[0.5]",
    ]


def test_polars_reads_a_connection_and_a_result(project: Project) -> None:
    pl = pytest.importorskip("polars")
    with flordb.connect(acquire="never") as connection:
        sql = "SELECT lr FROM flor ORDER BY lr"
        assert pl.read_database(sql, connection)["lr"].to_list() == [0.25, 0.5]
        assert connection.execute(sql).pl()["lr"].to_list() == [0.25, 0.5]
        assert pl.DataFrame(connection.execute(sql))["lr"].to_list() == [0.25, 0.5]


def test_pandas_reads_a_result_through_arrow(project: Project) -> None:
    with flordb.connect(acquire="never") as connection:
        cursor = connection.execute("SELECT lr FROM flor ORDER BY lr")
        assert isinstance(cursor.df(), pd.DataFrame)
        assert cursor.fetchnumpy()["lr"].tolist() == [0.25, 0.5]
