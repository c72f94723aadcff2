"""`interp.load`: a model by bundled name, local folder or hub id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from interp.kernels.errors import InterpError, suggest
from interp.zoo import registry

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel
    from interp.hooks.reader import Reader

MAX_NAME = 255
"""Bytes: longer names cannot be those of a folder on any common file system."""

FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def load(
    name: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    attention: str | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> HookedModel:
    """Open a model with every head hooked.

    Args:
        name: a bundled model (`interp models` lists them), a folder written by `save_pretrained`, or a hub id.
        dtype: 'float32', 'bfloat16', 'float16', 'float64'; None takes what the files say.
        device: 'cpu', 'cuda', ...
        attention: attention that plain layers run ('sdpa' or 'eager'); None is transformers' choice.
        revision: of a hub id.
        allow_pickle: read pickled weights, which can run code.

    Raises:
        InterpError: E405 not found or not readable; E310 pickled weights; E401 no attention heads; E701 damaged file.
    """
    from interp.hooks.loading import open_folder
    from interp.zoo import plain  # noqa: F401 - tells transformers of the architecture of planted and compiled models

    folder, revision_found = _folder(str(name), revision, allow_pickle)
    shown = Path(name).name if revision_found == "local" else str(name)
    return open_folder(
        folder,
        name=shown,
        dtype=dtype,
        device=device,
        attention=attention,
        allow_pickle=allow_pickle,
        revision=revision_found,
    )


def load_reader(name: str | Path) -> Reader:
    """How a model reads prompts (tokenizer, number of positions, where it answers), without its weights.

    Raises:
        InterpError: E405 not found, or no tokenizer.
    """
    from interp.hooks.reader import open_reader

    return open_reader(_folder(str(name), None, False)[0])


def _folder(name: str, revision: str | None, allow_pickle: bool) -> tuple[Path, str]:
    """Where the model's files are, and their revision."""
    bundled = registry.find(name)
    if bundled is not None:
        registry.verify(bundled)
        return bundled, "bundled"
    if "\0" in name or any(len(part.encode()) > MAX_NAME for part in Path(name).parts):
        raise InterpError(
            "E405",
            "not a name that a model or a folder can have",
            where=repr(name[:40]),
            fix="give a bundled name, a folder or a hub id",
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return path, "local"
    if path.is_file() or name.startswith((".", "/", "~")):
        raise InterpError("E405", "not a model folder", where=name, fix="give a folder written by save_pretrained")
    if "/" not in name:
        raise InterpError("E405", f"no bundled model and no folder {name!r}", fix=suggest(name, registry.list_models()))
    return _from_hub(name, revision, allow_pickle)


def _from_hub(name: str, revision: str | None, allow_pickle: bool) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=[*FILES, *(["*.bin"] if allow_pickle else [])])
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        why = (
            "HF_HUB_OFFLINE is set and the model is not in the local cache"
            if offline
            else "the hub did not answer or has no such model"
        )
        raise InterpError(
            "E405",
            f"{name}: {why}",
            where=f"needed: {', '.join(FILES)}",
            fix="unset HF_HUB_OFFLINE (drop --offline), or give a local folder written by save_pretrained",
        ) from error
    return folder, folder.name
