"""Owns nothing but the way in: `python -m bench.batch`."""

import sys

from bench.batch.run import main

if __name__ == "__main__":
    sys.exit(main())
