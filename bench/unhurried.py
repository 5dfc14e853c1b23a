"""`python -m bench.unhurried serve`: the service, whose outcomes wait long for company: how many share a commit then depends on what was
sent, and not on how fast the machine is. Of other versions too, in which the class is elsewhere.
"""

import importlib
import sys

from tocsin.cli import main

LINGER_SECONDS = 1.0

if __name__ == "__main__":
    for place in ("settling", "bulk"):
        try:
            importlib.import_module(f"tocsin.store.{place}").SettleAll.linger_seconds = LINGER_SECONDS
        except ModuleNotFoundError:
            continue
        break
    else:
        sys.exit("SettleAll is somewhere else")
    main()
