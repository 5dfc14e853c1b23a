"""One file per provider type. Read contract.py, then any one of the others."""
