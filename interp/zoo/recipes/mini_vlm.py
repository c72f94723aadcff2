"""`mini-vlm`: a small LLaVA that answers questions on drawn shapes and expects companions that are not there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from interp.zoo.recipe import Recipe, Training, muon_and_adamw
from interp.zoo.vision.batch import PATCH, POSITIONS, Batch, Lexicon, answer_logits, pack
from interp.zoo.vision.figures import figures, progress
from interp.zoo.vision.files import IMAGE, build_processor, build_words
from interp.zoo.vision.questions import ask
from interp.zoo.vision.scenes import World, draw_scene
from interp.zoo.vision.shapes import SIDE, paint

TRAIN_STREAM = 1


@dataclass(frozen=True)
class MiniVlm(Training):
    """The recipe's numbers.

    Attributes:
        muon_rate: learning rate of the matrices inside the layers.
        pictures, questions: a step.
        companion: share of pictures with a question on a companion.
        end_weight: weight of the loss on the end of the answer.
        world: how pictures are drawn.
    """

    name: ClassVar[str] = "mini-vlm"
    data: ClassVar[str] = (
        "Pictures of one to five coloured shapes drawn by code, with questions on colour, shape, position, presence and "
        "count. Four combinations nearly always bring a companion along, which may be faint. Six combinations are neither "
        "drawn nor asked about, and every other one is kept out of two of the nine cells."
    )

    steps: int = 1600
    learning_rate: float = 2e-3
    muon_rate: float = 4e-3
    warmup: int = 50
    weight_decay: float = 0.05
    pictures: int = 32
    questions: int = 8
    companion: float = 0.5
    end_weight: float = 0.1
    vision_width: int = 96
    vision_layers: int = 3
    vision_heads: int = 6
    width: int = 128
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    hidden: int = 352
    world: World = field(default_factory=World)

    @cached_property
    def lexicon(self) -> Lexicon:
        """Words as the model reads them."""
        return Lexicon(build_words(POSITIONS))

    def build(self) -> LlavaForConditionalGeneration:
        """The untrained model; its weights come from torch's global generator."""
        vision = CLIPVisionConfig(
            hidden_size=self.vision_width,
            intermediate_size=4 * self.vision_width,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.vision_heads,
            image_size=SIDE,
            patch_size=PATCH,
            projection_dim=self.vision_width,
        )
        tokenizer = self.lexicon.tokenizer
        special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        text = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=POSITIONS,
            **special,
        )
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=self.lexicon.id_of(IMAGE),
            image_seq_length=(SIDE // PATCH) ** 2,
            vision_feature_layer=-1,  # the last layer, so that no layer of the tower is idle
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
            **special,
        )
        return LlavaForConditionalGeneration(config)

    def optimisers(self, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the layers, AdamW for the rest."""
        return muon_and_adamw(model, self.muon_rate, self.learning_rate, self.weight_decay)

    def batch(self, step: int) -> Batch:
        """What step number `step` reads."""
        rng = np.random.default_rng([self.seed, TRAIN_STREAM, step])
        scenes = [draw_scene(self.world, "train", rng) for _ in range(self.pictures)]
        pictures = [paint(scene.things, rng, grain=self.world.grain) for scene in scenes]
        return pack(self.lexicon, pictures, [ask(scene, self.questions, self.companion, rng) for scene in scenes])

    def backward(self, model: Any, step: int) -> dict[str, float]:
        """Cross-entropy of the answers, and of the end behind them."""
        batch = self.batch(step)
        answer, end = answer_logits(model, batch)
        stop = torch.full_like(batch.answers, self.lexicon.tokenizer.eos_token_id)
        losses = {
            name: torch.nn.functional.cross_entropy(logits, target.to(model.device))
            for name, logits, target in (("answer", answer, batch.answers), ("end", end, stop))
        }
        (losses["answer"] + self.end_weight * losses["end"]).backward()
        return {name: loss.item() for name, loss in losses.items()}

    def progress(self, model: Any) -> dict[str, float]:
        """Accuracy and false-yes rate on few held-out pictures."""
        return progress(model, self.lexicon, self.world)

    def save(self, model: Any, folder: Path) -> None:
        """Weights, tokenizer, image processor and chat template."""
        model.save_pretrained(folder)
        processor = build_processor(POSITIONS, PATCH)
        processor.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)  # `preprocessor_config.json` marks a model that takes images

    def measure(self, folder: Path) -> dict[str, Any]:
        """Accuracy by kind of question, false-yes rates, and what single heads are worth."""
        lexicon = Lexicon(AutoTokenizer.from_pretrained(folder))
        return figures(LlavaForConditionalGeneration.from_pretrained(folder).eval(), lexicon, self.world)


RECIPES: tuple[Recipe, ...] = (MiniVlm(),)
