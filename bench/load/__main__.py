"""Owns nothing but the way in: `python -m bench.load`."""

import sys

from bench.load.run import main

if __name__ == "__main__":
    sys.exit(main())
