"""What heads send to a part of the model along the residual stream, in a metric of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.circuits.paths import Paths, Sender
from interp.circuits.question import Question
from interp.circuits.receivers import parse_receivers, reaches
from interp.hooks.edits import Positions
from interp.hooks.metrics import metric as metric_of
from interp.hooks.naive import batches
from interp.hooks.names import HeadId
from interp.hooks.pairs import Pairs
from interp.sweeps.rerun import narrowed

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


LEAST = 0.01
"""Share of a prompt's logit difference that an effect must exceed: every head has some, also where its weights are noise."""

NO_DIFFERENCE = "a hundredth of the prompt's logit difference, which makes none to the answer"


@dataclass(frozen=True, eq=False)
class Effects:
    """What heads are worth to each prompt.

    Attributes:
        values: logit difference of the clean run less that with a head's paths patched.
        clean: that of the clean run.
    """

    values: Float[np.ndarray, "head prompt"]
    clean: Float[np.ndarray, " prompt"]

    @property
    def least(self) -> Float[np.ndarray, "head prompt"]:
        """What an effect that makes no difference to the answer may be, in the shape of the values."""
        return np.broadcast_to(LEAST * np.abs(self.clean), self.values.shape).copy()


def path_effects(
    model: HookedModel,
    pairs: Pairs,
    heads: Sequence[HeadId],
    batch_size: int,
    *,
    receivers: Sequence[str] = ("logits",),
    through_mlps: bool = False,
) -> Effects:
    """Effects of the paths from each head to the receivers, taken from the corrupt run.

    What a head writes where the answer is read is patched; see `interp.circuits.paths`. Heads that cannot reach a
    receiver have 0.

    Args:
        receivers: labels; several are patched together.
        through_mlps: let paths lead through MLPs.

    Raises:
        InterpError: E303, prompts without a corrupt one; E403, layers that cannot be held.
    """
    found = parse_receivers(receivers, model)
    able = [number for number, head in enumerate(heads) if reaches(head, found)]
    question = Question.of(pairs, metric_of("logit_diff"))
    clean = question.measure(question.clean(model, 0, len(pairs), batch_size), 0, len(pairs), None).double().numpy()
    values = np.zeros((len(heads), len(pairs)))
    senders = [Sender((heads[number],), read_position(pairs)) for number in able]
    assert pairs.corrupt is not None
    for start, stop in batches(len(pairs), batch_size):
        columns, asked = narrowed(question, start, stop)
        base = pairs.clean.rows(start, stop).to(model.device)
        source = replace(pairs.corrupt, spans=pairs.clean.spans).rows(start, stop).to(model.device)
        way = Paths(model, base, source, pairs.read_at[start:stop], found, through_mlps, columns)
        for numbers, outputs, unpatched in way.outputs(senders) if senders else ():
            own = asked.measure(unpatched, start, stop, None).double().numpy()
            for number, output in zip(numbers, outputs, strict=True):
                values[able[number], start:stop] = own - asked.measure(output, start, stop, None).double().numpy()
    return Effects(values, clean)


def read_position(pairs: Pairs) -> Positions:
    """Where heads are patched: the last token where answers are read there, else (at a mask) every position."""
    return "end" if pairs.clean.mask is not None and bool((pairs.read_at == pairs.clean.end).all()) else None
