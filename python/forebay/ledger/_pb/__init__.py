"""Generated from `proto/forebay/v1/ledger.proto` by `python proto/generate.py`; a test proves that it is fresh.

Owns: the message classes. Must not know: anything else. On failure: an import error.
"""
