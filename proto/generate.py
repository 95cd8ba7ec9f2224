# ruff: noqa: INP001 - a script beside the proto file, no package
"""Writes the Python form of `forebay/v1/policy.proto`: `python proto/generate.py`, or `--check` to compare only.

Owns: `python/forebay/policy/_pb`. Must not know: what the message means. On failure: nothing is written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
TARGET = PROTO_ROOT.parent / "python" / "forebay" / "policy" / "_pb"
SOURCE = "forebay/v1/policy.proto"


def generate() -> dict[str, str]:
    """Compile the proto file with grpcio-tools' own `protoc`.

    Returns: file name to text, for `policy_pb2.py` and `policy_pb2.pyi`.
    Raises: RuntimeError when the compiler refuses the file; it has printed why.
    """
    from grpc_tools import protoc  # noqa: PLC0415 - a tool of development; the head must read without it

    with tempfile.TemporaryDirectory() as scratch:
        well_known = str(resources.files("grpc_tools") / "_proto")
        arguments = ["protoc", f"-I{PROTO_ROOT}", f"-I{well_known}", f"--python_out={scratch}", f"--pyi_out={scratch}"]
        if protoc.main([*arguments, SOURCE]) != 0:
            raise RuntimeError(f"`{SOURCE}` does not compile")
        folder = Path(scratch) / "forebay" / "v1"
        texts = {name: (folder / name).read_text() for name in ("policy_pb2.py", "policy_pb2.pyi")}
    # The message classes must name the module that they really live in, or they cannot be pickled.
    old, new = "'forebay.v1.policy_pb2'", "'forebay.policy._pb.policy_pb2'"
    texts["policy_pb2.py"] = texts["policy_pb2.py"].replace(old, new)
    # The stub's bare generic does not pass a strict type checker.
    texts["policy_pb2.pyi"] = texts["policy_pb2.pyi"].replace(", _Mapping]", ", _Mapping[str, object]]")
    return texts


def main() -> int:
    """Write the files, or with `--check` say which of them are stale (status 1)."""
    parser = argparse.ArgumentParser(description="generate the Python form of policy.proto")
    parser.add_argument("--check", action="store_true", help="compare only; status 1 when a file is stale")
    arguments = parser.parse_args()
    stale = [name for name, text in generate().items() if not _same(TARGET / name, text)]
    if arguments.check:
        for name in stale:
            sys.stderr.write(f"`{TARGET / name}` is stale: run `python proto/generate.py`\n")
        return 1 if stale else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in generate().items():
        (TARGET / name).write_text(text)
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
