"""Which code made a number: digest of the sources that can change one, and versions of what they stand on."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import interp
from interp.circuits.results import package_versions

FOLDERS = ("kernels", "hooks", "ablation", "tasks", "sweeps", "zoo")
"""Folders whose code decides numbers. Reports and the command line may change under an unfinished run."""

PACKAGES = ("torch", "transformers", "numpy")


@cache
def code_version(folders: tuple[str, ...] = FOLDERS) -> dict[str, str | None]:
    """Version of interp, SHA-256 over its sources, and versions of packages.

    A commit would not do: an installed package has none, and a working tree differs from its commit.

    Args:
        folders: whose code decides the numbers.
    """
    root = Path(interp.__file__).parent
    sha = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        sha.update(f"{path.relative_to(root).as_posix()}\0".encode())
        sha.update(path.read_bytes())
    versions = package_versions()
    return {
        "interp": interp.__version__,
        "sources_sha256": sha.hexdigest(),
        **{name: versions[name] for name in PACKAGES},
    }
