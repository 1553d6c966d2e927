"""The made project and the PostgreSQL server of the tests of orchestration are at hand here too."""

import sys
from pathlib import Path

for room in ("orchestration", "training"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
