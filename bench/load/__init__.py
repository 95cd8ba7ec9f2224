"""Speed of the whole way of a request, as ratios in one interleaved run; `python -m bench.load --help`."""
