"""What the heads of a vision tower are worth: what changes when one is taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.heads.effects.ablation import AblationScorer, ablations, measured
from interp.heads.scorer import Scores
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

METRICS = ("kl", "prediction", "cosine")

Rows = Float[Tensor, "part d_out"]


@dataclass(frozen=True, eq=False)
class VisionImportance(AblationScorer):
    """Change of what a model that sees puts out, when one head of its vision tower is taken away on every token.

    The paper scores heads by what pruning them changes; it has no published code, and the three measures here are the
    usual ones of a changed prediction. Hidden states are averaged over tokens.

    Attributes:
        metric: 'kl', divergence of the new prediction from the old one; 'prediction', 1 where the most probable class
            (or word) is another one; 'cosine', 1 less the cosine between the old and the new output vector.

    Raises:
        InterpError: E201, another operator or metric. When it runs: E407, a metric that the model's output does not have.
    """

    name: ClassVar[str] = "vision-importance"
    source: ClassVar[str] = "Li et al. 2023, How Does Attention Work in Vision Transformers?, arXiv 2303.13731"
    says: ClassVar[str] = "what the model makes of the picture changes without it"
    chance: ClassVar[str] = "no change"
    ceiling: ClassVar[float | None] = None
    task: ClassVar[str] = "shapes"
    sees: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {}

    operator: str = "mean"  # type: ignore[misc]  # here it is a parameter
    metric: str = "kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("metric", METRICS)

    def measure(self, model: HookedModel, pairs: Pairs, heads: Sequence[HeadId], batch_size: int) -> Scores:
        self._check(model)
        sets = [(head,) for head in heads]
        variants = ablations(model, pairs, sets, self.operator, factor=self.factor, batch_size=batch_size)
        values = measured(model, pairs, variants, {self.metric: self._change}, batch_size)[self.metric][0].numpy()
        return Scores(values, values * 0)

    def _check(self, model: HookedModel) -> None:
        given = model.adapter.output_name
        if given == "logits_per_image":
            what = f"{model.name} compares every picture with every text of a batch"
            fix = "open what sees alone: interp.vision.part.seeing_part(model)"
            raise InterpError("E407", what, where=f"scorer {self.name}", fix=fix)
        if given != "logits" and self.metric != "cosine":
            what = f"{self.metric} needs classes or words, and {model.name} gives {given}"
            raise InterpError("E407", what, where=f"scorer {self.name}", fix="metric='cosine'")

    def _change(self, output: Rows, clean: Rows, _: slice) -> Float[Tensor, " part"]:
        if self.metric == "kl":
            old, new = clean.log_softmax(-1), output.log_softmax(-1)
            return (old.exp() * (old - new)).sum(-1)
        if self.metric == "prediction":
            return (output.argmax(-1) != clean.argmax(-1)).to(output)
        return 1 - torch.cosine_similarity(output, clean, dim=-1)
