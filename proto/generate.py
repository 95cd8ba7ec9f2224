# ruff: noqa: INP001 - a script beside the proto file, no package
"""Writes the Python form of `forebay/v1/*.proto`: `python proto/generate.py`, or `--check` to compare only.

Owns: `python/forebay/policy/_pb`, `python/forebay/ledger/_pb`. Must not know: what the messages mean.
On failure: nothing is written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
PACKAGE = PROTO_ROOT.parent / "python" / "forebay"
# Each noun lives in the room that owns it.
NOUNS = ("policy", "ledger")


def generate() -> dict[Path, str]:
    """Compile the proto files with grpcio-tools' own `protoc`.

    Returns: path to text, for each room's `_pb2.py` and `_pb2.pyi`.
    Raises: RuntimeError when the compiler refuses a file; it has printed why.
    """
    from grpc_tools import protoc  # noqa: PLC0415 - a tool of development; the head must read without it

    sources = [f"forebay/v1/{noun}.proto" for noun in NOUNS]
    texts = {}
    with tempfile.TemporaryDirectory() as scratch:
        well_known = str(resources.files("grpc_tools") / "_proto")
        arguments = ["protoc", f"-I{PROTO_ROOT}", f"-I{well_known}", f"--python_out={scratch}", f"--pyi_out={scratch}"]
        if protoc.main([*arguments, *sources]) != 0:
            raise RuntimeError(f"`{', '.join(sources)}` do not compile")
        for noun in NOUNS:
            folder, target = Path(scratch) / "forebay" / "v1", PACKAGE / noun / "_pb"
            # The message classes must name the module that they really live in, or they cannot be pickled.
            old, new = f"'forebay.v1.{noun}_pb2'", f"'forebay.{noun}._pb.{noun}_pb2'"
            texts[target / f"{noun}_pb2.py"] = (folder / f"{noun}_pb2.py").read_text().replace(old, new)
            # The stub's bare generic does not pass a strict type checker.
            stub = (folder / f"{noun}_pb2.pyi").read_text().replace(", _Mapping]", ", _Mapping[str, object]]")
            texts[target / f"{noun}_pb2.pyi"] = stub
    return texts


def main() -> int:
    """Write the files, or with `--check` say which of them are stale (status 1)."""
    parser = argparse.ArgumentParser(description="generate the Python form of the proto files")
    parser.add_argument("--check", action="store_true", help="compare only; status 1 when a file is stale")
    arguments = parser.parse_args()
    texts = generate()
    stale = [path for path, text in texts.items() if not _same(path, text)]
    if arguments.check:
        for path in stale:
            sys.stderr.write(f"`{path}` is stale: run `python proto/generate.py`\n")
        return 1 if stale else 0
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
