"""``import flor`` is ``import flordb``, and ``python -m flor`` is ``python -m flordb``."""

import sys

if __name__ == "__main__":
    from flordb.cli import main

    main()
else:
    import flordb

    sys.modules[__name__] = flordb
