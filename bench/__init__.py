"""Benches of forebay: `load` drives real Envoys, `seam` the Python classes, `rust` holds the tools of `load`."""
