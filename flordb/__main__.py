"""``python -m flordb``."""

from flordb.cli import main

main()
