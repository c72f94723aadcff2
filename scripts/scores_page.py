"""Prints SCORES.md from the scorers of interp/heads/: python scripts/scores_page.py > SCORES.md"""

from __future__ import annotations

from importlib import import_module
from inspect import getdoc

from interp.heads import scorers
from interp.heads.scorer import Scorer

HEAD = """# What heads can be scored for

```python
import interp

model = interp.load("mini")
scores = interp.score(model, ["induction", "previous-token"])  # by name, one forward a batch for both
print(scores["induction"])  # headline, top heads, intervals, chance
```

Every score is one number a head and prompt. It stands beside what chance gives, and a head is claimed when it is above
chance and above the other heads of its layer, tested over prompts with false-discovery control. `interp score --list`
prints this list, `interp head L3H1` every verdict on one head. This page is made by `python scripts/scores_page.py >
SCORES.md`.
"""


def page() -> str:
    """The whole page."""
    families: dict[str, list[type[Scorer]]] = {}
    for kind in scorers().values():
        families.setdefault(kind.__module__.rpartition(".")[0], []).append(kind)
    return "\n".join([HEAD, *(_family(home, kinds) for home, kinds in sorted(families.items()))])


def _family(home: str, kinds: list[type[Scorer]]) -> str:
    """Scorers of one folder."""
    rows = [
        f"| `{kind.name}` | {_cell(kind.says)} | {_cell(kind.chance)} | {kind.task or 'weights'} | {_cell(kind.source)} |"
        for kind in kinds
    ]
    title = (getdoc(import_module(home)) or home).split("\n")[0].rstrip(".")
    columns = "| name | what a high score says | chance | reads | source |"
    return "\n".join([f"## {title}", "", columns, "|---|---|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
