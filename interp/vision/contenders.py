"""The methods that are compared, each with the settings it is tried in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.hooks.interventions import Intervention, Scale
from interp.hooks.naive import batches, read_output
from interp.hooks.rerun.sweep import sweep
from interp.vision.contrast import carved
from interp.vision.edits import Deactivate
from interp.vision.gaze import gaze_guidance
from interp.vision.methods import ByHeads, EditMethod, Margins, Method, Setting
from interp.vision.modulation import image_boost, modulation
from interp.vision.outlier_branch import outlier_contrast
from interp.vision.questions import Questions
from interp.vision.redistribution import redistribution
from interp.vision.reinforcement import reinforcement

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel

END = "end"
VHD, BLANK, WRONG = "vhd", "vhd blank", "hallucinating"
"""Rankings of heads: by VHD against no picture (as published), against a blank one, and by influence on wrong answers."""

Rankings = Mapping[str, tuple[str, ...]]


class ReinforcedHeads(ByHeads):
    """VHD-ranked heads, the same in every prompt, times alpha where answers are read."""

    name = "reinforce VHD heads"
    source = "arXiv 2412.13949, heads fixed beforehand"
    point = "z"
    grid = tuple({"per_layer": k, "alpha": alpha} for k in (1, 2, 3) for alpha in (1.5, 2.0))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return Scale(self.heads(setting), setting["alpha"], positions=END)


class ReinforcedAgainstBlank(ReinforcedHeads):
    """The same with VHD held against a blank picture.

    Without any picture tokens move up, and heads that notice that alone rank high; a blank one changes nothing but what is
    seen. Half of a layer's heads are tried too: the paper takes those above the layer's median.
    """

    name = "reinforce VHD heads (blank)"
    source = "arXiv 2412.13949, against a blank picture"
    grid = tuple({"per_layer": k, "alpha": alpha} for k in (1, 2, 3, 4) for alpha in (1.5, 2.0))


class ModulatedHeads(ByHeads):
    """Head-specific modulation: boosts in VHD-ranked heads alone."""

    name = "modulate VHD heads"
    source = "Fixing Imbalanced Attention, as its abstract says"
    point = "attn_scores"
    grid = tuple({"per_layer": 2, "alpha": alpha} for alpha in (0.1, 0.3, 0.7))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return modulation(
            model, asked.read, heads=self.heads(setting), alpha=setting["alpha"], beta=setting["alpha"] * 3 / 7
        )


class DeactivatedHeads(ByHeads):
    """Adaptive deactivation of hallucination heads."""

    name = "deactivate heads"
    source = "Modular Attribution, Yang et al. 2025"
    point = "pattern"
    grid = tuple({"first": n, "threshold": threshold} for n in (1, 2, 4) for threshold in (0.4, 0.8))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return Deactivate(self.heads(setting), setting["threshold"])


class Reinforcement(EditMethod):
    """VHR as published: heads of each prompt."""

    name = "VHR"
    source = "arXiv 2412.13949, Algorithm 1"
    point = "z"
    grid = tuple({"alpha": alpha} for alpha in (1.25, 1.5, 2.0))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return reinforcement(model, asked.read, alpha=setting["alpha"], positions=END)


class AllHeads(EditMethod):
    """The blanket control: every head times alpha."""

    name = "reinforce all heads"
    source = "control"
    point = "z"
    grid = tuple({"alpha": alpha} for alpha in (1.25, 1.5, 2.0))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return Scale("all", setting["alpha"], positions=END)


class Redistribution(EditMethod):
    """VAR."""

    name = "VAR"
    source = "arXiv 2503.03321"
    point = "pattern"
    grid = ({"keep": 0.6}, {"keep": 0.2})

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention | None:
        return redistribution(model, asked.read, layers=range(model.n_layers), keep=setting["keep"])


class Modulation(EditMethod):
    """The published file: boosts in all heads."""

    name = "modulate all heads"
    source = "Fixing Imbalanced Attention, official code"
    point = "attn_scores"
    grid = tuple({"alpha": alpha} for alpha in (0.1, 0.3, 0.7))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return modulation(model, asked.read, alpha=setting["alpha"], beta=setting["alpha"] * 3 / 7)


class ImageBoost(EditMethod):
    """All image tokens alike."""

    name = "boost image tokens"
    source = "PAI, arXiv 2407.21771"
    point = "attn_scores"
    grid = tuple({"alpha": alpha} for alpha in (0.1, 0.3, 0.5))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return image_boost(asked.read, alpha=setting["alpha"])


class Gaze(EditMethod):
    """GIFT."""

    name = "GIFT"
    source = "its README; a reading"
    point = "attn_scores"
    grid = tuple({"alpha": alpha} for alpha in (1.0, 5.0))

    def edit(self, model: HookedModel, asked: Questions, setting: Setting) -> Intervention:
        return gaze_guidance(model, asked.read, alpha=setting["alpha"])


class Carving(Method):
    """CARVE."""

    name = "CARVE"
    source = "its abstract; a reading"
    grid = tuple({"keep": keep} for keep in (0.25, 0.5, 0.75))

    def margins(self, model: HookedModel, asked: Questions, settings: Sequence[Setting], batch_size: int) -> Margins:
        rows = []
        for setting in settings:
            batch, parts = carved(model, asked.read, keep=setting["keep"]), []
            for start, stop in batches(len(asked), batch_size):
                part = batch.rows(start, stop)
                output = read_output(model(part), part, asked.pairs.read_at[start:stop])
                parts.append(asked.margin(output, start, stop).double().cpu())
            rows.append(torch.cat(parts).numpy())
        return np.stack(rows)


class OutlierContrast(Method):
    """DAMRO."""

    name = "DAMRO"
    source = "arXiv 2410.04514"
    point = "attn_scores"
    grid = tuple({"alpha": a, "variant": variant} for variant in ("paper", "official-code") for a in (0.5, 2.0))

    def margins(self, model: HookedModel, asked: Questions, settings: Sequence[Setting], batch_size: int) -> Margins:
        found = [outlier_contrast(model, asked.read, **setting, batch_size=batch_size) for setting in settings]
        return np.stack([asked.margin(logits, 0, len(asked)).double().numpy() for logits in found])


class LowerYes(Method):
    """The control that looks at nothing: the logit of yes is lowered by a constant."""

    name = "lower the logit of yes"
    source = "control"
    grid = tuple({"by": by} for by in (0.5, 1.0, 1.5, 2.0))

    def margins(self, model: HookedModel, asked: Questions, settings: Sequence[Setting], batch_size: int) -> Margins:
        yes = int(model.tokenizer(" yes", add_special_tokens=False)["input_ids"][0])

        def lowered(by: float) -> np.ndarray:
            def measure(output: torch.Tensor, start: int, stop: int) -> torch.Tensor:
                changed = output.clone()
                changed[:, yes] -= by
                return asked.margin(changed, start, stop)

            _, found = sweep(model, asked.pairs.clean, [], asked.pairs.read_at, measure, batch_size=batch_size)
            values: np.ndarray = found.numpy()
            return values

        return np.stack([lowered(setting["by"]) for setting in settings])


def contenders(rankings: Rankings) -> tuple[Method, ...]:
    """All of them."""
    return (
        Reinforcement(), ReinforcedHeads(rankings[VHD]), ReinforcedAgainstBlank(rankings[BLANK]), Redistribution(),
        ModulatedHeads(rankings[VHD]), Modulation(), ImageBoost(), Gaze(), Carving(), OutlierContrast(),
        DeactivatedHeads(rankings[WRONG]), AllHeads(), LowerYes(),
    )  # fmt: skip
