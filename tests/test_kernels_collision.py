"""Our folder `kernels/` beside the Hugging Face distribution of that name, which transformers imports where it finds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

Python = Callable[..., str]
ROOT = Path(__file__).resolve().parents[1]

TINY_LLAMA = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
assert LlamaForCausalLM(config).eval()(torch.tensor([[1, 3, 4]])).logits.shape == (1, 3, 32)
"""

HUB_KERNELS = '''
class _Anything:
    """Takes any arguments; as a decorator it gives back what it decorates."""
    def __init__(self, *args, **options): pass
    def __call__(self, thing): return thing

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything

__version__ = "VERSION"
IS_THE_INSTALLED_ONE = True
'''
"""Stands in for the Hugging Face distribution of this name: whatever transformers asks it for."""


def accepted_kernels_version() -> str:
    """The oldest version of `kernels` that the installed transformers imports."""
    found = find_spec("transformers")
    assert found is not None and found.origin is not None
    text = (Path(found.origin).parent / "utils" / "import_utils.py").read_text("utf-8")
    version = re.search(r'KERNELS_MIN_VERSION = "([\d.]+)"', text)
    assert version is not None
    return version[1]


def install_fake_kernels(site: Path) -> None:
    version = accepted_kernels_version()
    about = site / f"kernels-{version}.dist-info"
    for folder in (site / "kernels", about):
        folder.mkdir()
    (site / "kernels" / "__init__.py").write_text(HUB_KERNELS.replace("VERSION", version))
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")


def test_transformers_works_with_the_root_first_on_the_path(python: Python) -> None:
    code = TINY_LLAMA + "import sys; print(getattr(sys.modules.get('kernels'), '__file__', None))"
    assert python(code) == "None"


def test_transformers_works_beside_an_accepted_kernels_distribution(python: Python, tmp_path: Path) -> None:
    """The root comes first on the path; the installed `kernels` must win over the folder of that name all the same."""
    install_fake_kernels(tmp_path)
    check = """
import kernels, interp.kernels.errors
from transformers.utils import is_kernels_available
assert kernels.IS_THE_INSTALLED_ONE and is_kernels_available()
"""
    python(TINY_LLAMA + check, path=(ROOT, tmp_path))


def test_a_package_named_kernels_would_break_transformers(python: Python, tmp_path: Path) -> None:
    """What the two tests above guard against does happen."""
    root, site = tmp_path / "root", tmp_path / "site"
    (root / "kernels").mkdir(parents=True)
    (root / "kernels" / "__init__.py").touch()
    site.mkdir()
    install_fake_kernels(site)
    assert "ImportError" in python(TINY_LLAMA, path=(root, site), fails=True)
