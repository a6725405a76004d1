"""What a built library lacks of the hardening that setup.py asks for, as readelf shows it.

python tests/project/hardening.py LIBRARY_OR_WHEEL...     prints what is missing, and then fails
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def faults(library: Path) -> list[str]:
    """Return what is missing; nothing if the loader and the stack of the library are protected."""
    dynamic, segments, symbols = (_readelf(option, library) for option in ("--dynamic", "--segments", "--dyn-syms"))
    stack = re.search(r"GNU_STACK(?: +0x[0-9a-f]+){5} +([RWE ]+?) +0x", segments)
    checks = {
        "addresses of functions stay writable: no BIND_NOW": bool(re.search(r"\bBIND_NOW\b|Flags:.*\bNOW\b", dynamic)),
        "tables of the loader stay writable: no RELRO": "GNU_RELRO" in segments,
        "the stack is executable": stack is not None and "E" not in stack[1],
        "code is changed when it is loaded: TEXTREL": "TEXTREL" not in dynamic,
        "no function checks its stack: no __stack_chk_fail": "__stack_chk_fail" in symbols,
    }
    return [f"{library.name}: {text}" for text, holds in checks.items() if not holds]


def faults_in(path: Path) -> list[str]:
    """Return what the libraries of a wheel lack, or a library itself."""
    if path.suffix != ".whl":
        return faults(path)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".so")]
        found = [fault for name in names for fault in faults(Path(wheel.extract(name, folder)))]
    return found if names else [f"{path.name}: there is no library in it"]


def _readelf(option: str, library: Path) -> str:
    command = ["readelf", option, "--wide", str(library)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def main() -> None:
    found = [fault for name in sys.argv[1:] for fault in faults_in(Path(name))]
    if found:
        sys.exit("\n".join(found))
    print(f"hardened: {', '.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
