"""Prints ATTENTION.md from the registries of kernels/: python scripts/attention_page.py > ATTENTION.md"""

from __future__ import annotations

from importlib import import_module
from inspect import getdoc

from interp.kernels.backends.base import Backend
from interp.kernels.backends.choice import AUTO, backends
from interp.kernels.backends.fused import Fused
from interp.kernels.statistics import statistics
from interp.kernels.variants import variants
from interp.kernels.variants.linear import Linear
from interp.kernels.variants.rowwise import Rowwise

HEAD = """# Attention operators, statistics and backends

```python
import interp, torch

q, k, v = torch.randn(1, 12, 8192, 64), torch.randn(1, 4, 8192, 64), torch.randn(1, 4, 8192, 64)
out = interp.kernels.attention(q, k, v, variant="softmax", statistics=["entropy", "received", "sink-mass"])
out["entropy"].shape, out["received"].shape, out.lse.shape, str(out.choices[0])

model = interp.load("mini")
logits, found = model.run_with_statistics("one two three one two", ["entropy"])  # found[layer]["entropy"]
with model.edit(interp.Swap("L0H1", "streaming")):  # one head sees the first and the latest tokens alone
    logits = model("one two three one two")
```

Nothing of the size of a pattern is stored: memory grows with the length of a text. Queries stand where the last keys
stand (bottom right); query heads share key/value heads evenly; packed documents see nothing of each other. A named
backend never falls back; `auto` says in `out.choices` what it chose and why. This page is made by
`python scripts/attention_page.py > ATTENTION.md`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, _operators(), _statistics(), _backends()])


def _first(kind: object) -> str:
    """The first paragraph of a description, in one line of a table."""
    paragraph = (getdoc(kind) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


def _how(backend: Backend) -> str:
    """A kernel that fills a package is described there."""
    if not isinstance(backend, Fused):
        return _first(type(backend))
    name = getattr(backend.kernel, "__name__", "")
    return _first(import_module(name.removesuffix(".kernel")))


def _operators() -> str:
    rows = [f"| `{name}` | {_first(kind)} | {kind.source} |" for name, kind in variants().items()]
    linear = [f"`{name}`" for name, kind in variants().items() if issubclass(kind, Linear)]
    scored = [f"`{name}`" for name, kind in variants().items() if issubclass(kind, Rowwise)]
    return "\n".join(
        [
            "## Operators",
            "",
            "Every operator gives effective weights W of any rows (`interp.kernels.pattern`), so that every statistic and "
            "tool works on every operator: the pattern is `|W| / sum |W|`, and `mass` is what W sums to.",
            "",
            "| name | what it is | source |",
            "|---|---|---|",
            *rows,
            "",
            f"In linear time, in quadratic, chunked and recurrent form: {', '.join(linear)}.",
            "",
            f"With scores that a softcap and a bias act on: {', '.join(scored)}.",
            "",
        ]
    )


def _statistics() -> str:
    rows = [
        f"| `{name}` | {kind.kind} | `{kind.formula.replace('|', chr(92) + '|')}` | {_first(kind)} |"
        for name, kind in statistics().items()
    ]
    return "\n".join(["## Statistics", "", "| name | kind | formula | what it says |", "|---|---|---|---|", *rows, ""])


def _backends() -> str:
    orders = [f"on {device}: {', then '.join(f'`{name}`' for name in names)}" for device, names in AUTO.items()]
    lines = [f"| `{name}` | {_how(backend)} |" for name, backend in backends().items()]
    return "\n".join(
        [
            "## Backends",
            "",
            f"What `auto` asks first, {'; '.join(orders)}; `eager` where gradients are wanted or everything is small.",
            "",
            "| name | how |",
            "|---|---|",
            *lines,
            "",
            "The native kernel is compiled once, with the machine's own C++ compiler, into `$INTERP_CACHE` (by default "
            "`~/.cache/interp`).",
            "",
        ]
    )


if __name__ == "__main__":
    print(page(), end="")
