"""Importing flordb costs next to nothing and does nothing."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "duckdb", "pyarrow", "pandas", "git", "numpy", "sqlglot", "cloudpickle")


def _seconds(code: str) -> float:
    program = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return float(done.stdout)


def test_import_takes_under_30_ms_over_bare_python() -> None:
    # The quickest of several: what else the machine does is not the import's doing.
    assert min(_seconds("import flordb") for _ in range(10)) < 0.030


def test_import_pulls_in_no_heavy_package() -> None:
    code = "import flordb, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded.isdisjoint(HEAVY)


def test_recording_pulls_in_neither_duckdb_nor_pyarrow_nor_pandas(tmp_path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, flordb as flor\n"
        "for e in flor.loop('epoch', range(2)):\n"
        "    flor.log('x', e)\n"
        "flor.commit()\n"
        "print({m for m in ('duckdb', 'pyarrow', 'pandas', 'torch', 'git') if m in sys.modules})\n"
    )
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


def test_import_opens_no_file_for_writing_and_makes_none(tmp_path) -> None:
    code = (
        "import sys, os\n"
        "bad = []\n"
        "def hook(event, args):\n"
        "    if event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY|os.O_CREAT)"
        " and '__pycache__' not in str(args[0]):\n"
        "        bad.append(args[0])\n"
        "    if event in ('os.mkdir', 'subprocess.Popen'): bad.append(args)\n"
        "sys.addaudithook(hook)\n"
        "import flordb\n"
        "sys.exit(repr(bad) if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_flor_is_flordb() -> None:
    code = "import flor, flordb; assert flor is flordb; from flor import log, loop"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_listed_in_order_and_exist() -> None:
    import flordb

    assert flordb.__all__ == sorted(flordb.__all__)
    for name in flordb.__all__:
        assert getattr(flordb, name) is not None


def test_retired_calls_of_the_predecessor_do_nothing() -> None:
    import flordb

    for name in ("restore", "set_ckpt_interval", "set_capture", "io"):
        assert getattr(flordb, name)("anything", n=1) is None
