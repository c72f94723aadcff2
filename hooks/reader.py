"""How a model reads prompts: its tokenizer and configuration, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.kernels.errors import InterpError

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class Reader:
    """What it takes to read prompts as a model does, without its weights.

    Attributes:
        tokenizer: the folder's own.
        limit: the model's number of positions; None where nothing says so.
        at_mask: whether answers are read at the mask token.
        processor: what reads pictures; None for models that read text alone.
    """

    tokenizer: Any
    limit: int | None
    at_mask: bool
    processor: Any = None


def open_reader(folder: Path) -> Reader:
    """Raises E405 where the folder has no tokenizer."""
    tokenizer = open_tokenizer(folder)
    if tokenizer is None:
        raise InterpError("E405", "this model has no tokenizer files", where=str(folder))
    config = read_config(folder)
    at_mask = any(answers_at_mask(name) for name in config.architectures or ())
    return Reader(tokenizer, n_positions(config), at_mask, open_processor(folder))


def open_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; None where it has none."""
    import transformers

    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")):
        return None
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def open_processor(folder: Path) -> Any:
    """What reads a model's pictures; None where the folder says nothing of one."""
    import transformers

    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)


def read_config(folder: Path) -> Any:
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise InterpError(
            "E405",
            "config.json does not describe a model that transformers knows",
            where=str(folder / "config.json"),
            fix=str(error).splitlines()[0],
        ) from error


def n_positions(config: Any) -> int | None:
    """How many tokens a model can place; None where its configuration does not say."""
    text = config.get_text_config()
    return next((value for name in POSITIONS if isinstance(value := getattr(text, name, None), int)), None)


def answers_at_mask(architecture: str) -> bool:
    """Masked language models answer where the mask token stands, others after the last token."""
    return architecture.endswith("ForMaskedLM")
