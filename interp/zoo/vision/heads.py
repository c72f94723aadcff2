"""What single heads of `mini-vlm` are worth: each one's output is replaced by its mean."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.zoo.language.evaluate import replaced_input
from interp.zoo.vision.batch import Batch, Lexicon, answer_logits
from interp.zoo.vision.questions import Question
from interp.zoo.vision.quiz import Quiz

TOP = 6


@torch.no_grad()
def read(model: Any, lexicon: Lexicon, batches: list[Batch], questions: list[Question]) -> Float[Tensor, "2 question"]:
    """Per question the logit of the answer minus that of the distractor, and whether the answer is the top token."""
    logits = torch.cat([answer_logits(model, batch)[0] for batch in batches])
    answer, other = (ids(lexicon, [getattr(q, name) for q in questions]) for name in ("answer", "distractor"))
    rows = torch.arange(len(logits))
    return torch.stack([logits[rows, answer] - logits[rows, other], (logits.argmax(-1) == answer).float()])


def ids(lexicon: Lexicon, words: list[str]) -> Int[Tensor, " word"]:
    """Tokens of answers."""
    return torch.tensor([lexicon.id_of(f" {word}") for word in words])


def projections(model: Any) -> dict[str, tuple[nn.Module, int]]:
    """Output projection and number of heads of each layer: `L0` of the language model, `vision.L0` of the tower."""
    text, vision = model.config.text_config, model.config.vision_config
    found = {
        f"L{i}": (layer.self_attn.o_proj, text.num_attention_heads)
        for i, layer in enumerate(model.model.language_model.layers)
    }
    tower = model.model.vision_tower.encoder.layers
    return found | {
        f"vision.L{i}": (layer.self_attn.out_proj, vision.num_attention_heads) for i, layer in enumerate(tower)
    }


def head_effects(model: Any, lexicon: Lexicon, quizzes: dict[str, Quiz]) -> dict[str, dict[str, dict[str, float]]]:
    """The heads that move the margin of the right answer most, per quiz, and what is lost without each.

    Positive: the head helps. On absent companions a negative figure names a head that pushes towards the false yes.
    """
    found = {}
    for name, quiz in quizzes.items():
        lost = ablate_each(model, lexicon, quiz)
        top = sorted(lost, key=lambda label: -abs(lost[label]["margin"]))[:TOP]
        found[name] = {label: {key: round(value, 3) for key, value in lost[label].items()} for label in top}
    return found


def ablate_each(model: Any, lexicon: Lexicon, quiz: Quiz) -> dict[str, dict[str, float]]:
    """Mean margin (logits) and accuracy that are lost without each head."""
    batches, questions = quiz.batches(lexicon), quiz.flat()
    clean, lost = read(model, lexicon, batches, questions), {}
    for layer, (projection, n_heads) in projections(model).items():
        mean = mean_input(model, lexicon, projection, batches, questions)
        for head in range(n_heads):

            def ablate(z: Tensor, head: int = head, mean: Tensor = mean, n: int = n_heads) -> Tensor:
                split = rearrange(z, "... (head d) -> ... head d", head=n).clone()
                split[..., head, :] = rearrange(mean, "(head d) -> head d", head=n)[head]
                return rearrange(split, "... head d -> ... (head d)")

            with replaced_input(projection, ablate):
                fall = (clean - read(model, lexicon, batches, questions)).mean(1).tolist()
            lost[f"{layer}H{head}"] = dict(zip(("margin", "accuracy"), fall, strict=True))
    return lost


def mean_input(
    model: Any, lexicon: Lexicon, module: nn.Module, batches: list[Batch], questions: list[Question]
) -> Float[Tensor, " feature"]:
    """Mean of a module's input over all pictures and positions."""
    seen: list[Tensor] = []

    def keep(z: Tensor) -> Tensor:
        seen.append(z.flatten(0, -2))
        return z

    with replaced_input(module, keep):
        read(model, lexicon, batches, questions)
    return torch.cat(seen).mean(0)
