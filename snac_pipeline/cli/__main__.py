"""`python -m snac_pipeline.cli`, as `snac-pipeline`."""

import sys

from snac_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
