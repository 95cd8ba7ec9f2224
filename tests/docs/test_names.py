"""Names that stand in two places are the same: headers in Rust and Python, metrics in code and documents, doorways."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "python" / "forebay"
RUST = ROOT / "rust" / "core" / "src"


def test_internal_headers_are_those_of_the_core():
    core = set(re.findall(r'"(x-forebay-internal-[a-z]*)"', (RUST / "names.rs").read_text()))
    control = "".join(path.read_text() for path in (PYTHON / "control").glob("*.py"))
    used = set(re.findall(r"x-forebay-internal-[a-z]*", control))
    assert used
    assert used <= core


def test_every_metric_is_named_once():
    text = (RUST / "metrics.rs").read_text() + (RUST / "engine" / "mod.rs").read_text()
    names = re.findall(r'"(forebay_[a-z_]+_total)",', text)
    assert names
    assert len(names) == len(set(names))


def test_the_core_has_one_doorway_in_each_room_and_none_in_the_command():
    doorways: dict[str, set[str]] = {}
    for path in PYTHON.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "forebay._core":
                room = path.relative_to(PYTHON).parts[0]
                doorways.setdefault(room, set()).add(path.name)
    assert "cli.py" not in doorways
    assert "app" not in doorways
    assert all(len(files) == 1 for files in doorways.values()), doorways


def test_no_module_is_longer_than_two():
    code = [*PYTHON.rglob("*.py"), *RUST.rglob("*.rs"), *(ROOT / "rust" / "serve" / "src").rglob("*.rs")]
    long = {str(path.relative_to(ROOT)): n for path in code if (n := len(path.read_text().splitlines())) > 700}
    assert not [name for name in long if "_pb2" not in name], long
