"""Refuse tracked files of unknown kinds: what patches, merges, editors and runs leave behind.

python .ci/tracked_files.py
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

KINDS = {".py", ".md", ".toml", ".cfg", ".yml", ".txt", ".css"}
ONLY_IN = {
    ".png": ("docs/",),
    ".npz": ("tests/",),
    ".json": ("tests/", "examples/benchmarks/everyday-paces"),
    ".keras": ("tests/saved/",),
    ".csv": ("examples/", "docs/"),
    ".xz": ("examples/benchmarks/everyday-runs",),
}
NAMES = {"Makefile", "LICENSE", ".gitignore", ".ci/run", "tf_kfgn/py.typed"}


def main() -> None:
    """Check what git tracks."""
    listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True)
    unknown = [name for name in listed.stdout.splitlines() if not is_known(name)]
    if unknown:
        sys.exit(
            "These tracked files are of no known kind; remove them, or name their kind in "
            f"{pathlib.Path(__file__).name}:\n" + "\n".join(unknown)
        )


def is_known(name: str) -> bool:
    """Whether a file is of a kind that belongs here."""
    kind = pathlib.PurePosixPath(name).suffix
    return name in NAMES or kind in KINDS or name.startswith(ONLY_IN.get(kind, ("\0",)))


if __name__ == "__main__":
    main()
