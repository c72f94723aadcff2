"""A folder of model files as a HookedModel: the right class, the right tokenizer, and what the files were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from interp.hooks.model import HookedModel
from interp.hooks.reader import open_processor, open_tokenizer, read_config
from interp.kernels.errors import InterpError, suggest

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def open_folder(
    folder: Path,
    *,
    name: str,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attention: str | None = None,
    allow_pickle: bool = False,
    revision: str = "local",
) -> HookedModel:
    """Open what `save_pretrained` wrote.

    Args:
        folder: with config.json, weights and, for text, tokenizer files.
        name: for results and messages.
        dtype: 'float32', 'bfloat16', ...; None takes what the files say.
        device: None is the CPU.
        attention: transformers' name of the attention that plain layers run ('sdpa', 'eager'); None is its default.
        allow_pickle: read .bin weights, which can run code when they are opened.

    Raises:
        InterpError: E405 the folder cannot be opened; E310 only pickled weights; E401 no attention; E406 see `certify`.
    """

    if not (folder / "config.json").is_file():
        raise InterpError(
            "E405",
            "no config.json in the model folder",
            where=str(folder),
            fix="give a folder written by save_pretrained, a bundled name, or a hub id",
        )
    safe = any(folder.glob("*.safetensors"))
    if not safe and not allow_pickle and any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise InterpError(
            "E310",
            "the weights are pickled; opening them can run code",
            where=str(folder),
            fix="convert them to safetensors, or trust them with --allow-pickle (allow_pickle=True)",
        )
    if not safe and not allow_pickle:
        raise InterpError("E405", "no *.safetensors in the model folder", where=str(folder))
    config = read_config(folder)
    options = {"dtype": _dtype(dtype), "use_safetensors": safe, **_attention(attention)}
    model, info = _read_weights(_model_class(config, folder), folder, options)
    if info["mismatched_keys"]:
        raise InterpError(
            "E405",
            f"{len(info['mismatched_keys'])} weights have another shape than config.json says",
            where=str(folder),
        )
    prefix = model.base_model_prefix
    fresh_head = [
        key for key in info["missing_keys"] if prefix and not key.startswith(f"{prefix}.") and hasattr(model, prefix)
    ]
    missing_body = [key for key in info["missing_keys"] if key not in fresh_head and "pooler" not in key]
    if missing_body:
        raise InterpError(
            "E405",
            f"{len(missing_body)} weights are missing, {missing_body[0]!r} among them",
            where=str(folder),
            fix="the folder is incomplete",
        )
    return HookedModel.from_hf(
        model.to(device or "cpu").eval(),
        open_tokenizer(folder),
        processor=open_processor(folder),
        name=name,
        source={"revision": revision, **digests(folder)},
        has_trained_head=not fresh_head,
    )


def _read_weights(model_class: Any, folder: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model, and transformers' report on what was in the files and what was not."""
    from safetensors import SafetensorError

    report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet():
            model, info = model_class.from_pretrained(folder, local_files_only=True, **report, **options)
    except (SafetensorError, UnpicklingError, ImportError, OSError) as error:
        raise InterpError(
            "E405",
            "the weights could not be read",
            where=str(folder),
            fix=f"fetch the files again; transformers says: {str(error).splitlines()[0]}",
        ) from error
    return model, info


def _attention(name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    if name not in ATTENTION:
        raise InterpError("E201", f"no attention {name!r}", fix=suggest(name, ATTENTION))
    return {"attn_implementation": name}


def digests(folder: Path) -> dict[str, Any]:
    """SHA-256 of the files that decide what the model computes."""

    def sha(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    found: dict[str, Any] = {
        "weights_sha256": {
            path.name: sha(path) for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin")
        }
    }
    for field, file in (
        ("config_sha256", "config.json"),
        ("tokenizer_sha256", "tokenizer.json"),
        ("chat_template_sha256", "chat_template.jinja"),
    ):
        if (folder / file).is_file():
            found[field] = sha(folder / file)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """What transformers prints while loading (progress, fresh weights) is read from its loading report instead."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _model_class(config: Any, folder: Path) -> Any:
    """The class named in config.json: loading through another one would make a fresh, untrained head."""
    import transformers

    for architecture in config.architectures or ():
        if hasattr(transformers, architecture):
            return getattr(transformers, architecture)
    causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    registered: Any = causal[type(config)] if type(config) in causal else None  # by whoever calls us
    if registered is not None and registered.__name__ in (config.architectures or ()):
        return registered
    if config.architectures:
        raise InterpError(
            "E405",
            f"transformers has no class {config.architectures[0]!r}",
            where=str(folder / "config.json"),
            fix="models that bring their own code are not run",
        )
    return transformers.AutoModel


def _dtype(dtype: str | torch.dtype | None) -> Any:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype or "auto"
    if dtype not in DTYPES:
        raise InterpError("E201", f"no dtype {dtype!r}", fix=suggest(dtype, DTYPES))
    return DTYPES[dtype]
