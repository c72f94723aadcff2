"""What follows when one reader reads something else, part by part: the parts that a circuit joins to it, and no others.

A search that goes from the output to the input knows, at each reader, all edges behind it. Most of them are out, so a
change at one reader reaches few parts, and MLPs only where what they write is read. Those parts alone are computed: the
projections of readers that see a change, the attention of their layers, MLPs at needed positions, the logits where the
metric reads. The model's own modules compute them. Where no edge leads, nothing is run and nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.edges.masked import MaskedRuns
from interp.circuits.edges.needs import Needs
from interp.circuits.edges.parts import Parts
from interp.circuits.graph.flow import MLP_IN, Stream
from interp.circuits.graph.graph import Edges
from interp.circuits.receivers import LOGITS, MLP, Receiver
from interp.circuits.writes import POST, PRE

Moved = dict[int, Float[Tensor, "trial batch pos d_model"]]
"""Writer -> what it writes, less what it wrote in the clean run, for each trial."""

ROUNDING = 1e-5
"""A head that no edge reaches moves by less than this share of the largest z, unless a norm spans heads."""


@dataclass(eq=False)
class Branches:
    """Some circuits that differ at one reader, and all that differs between them.

    Attributes:
        values: the metric [trial batch].
        moved: what writers write now; elsewhere than at `at` it is as it was.
        at: writer -> positions where any of the trials can differ from the present state [batch pos].
        heads: layer -> what its attention was made of and gave: 'q', 'k', 'v', 'z' [trial batch pos head d_head].
    """

    values: Tensor
    moved: Moved = field(default_factory=dict)
    at: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, dict[str, Tensor]] = field(default_factory=dict)


class Downstream:
    """The present state of a circuit, all edges in at first, and trials of changes to it.

    Args:
        runs: whose counter of forwards is raised, see `Parts`.
    """

    def __init__(self, runs: MaskedRuns) -> None:
        self.flow, self.graph, self.contrast = runs.flow, runs.flow.graph, runs.contrast
        self.parts = Parts(runs)
        ablated = self.contrast.ablated.minus(self.contrast.clean)
        self.ablated = torch.cat(list(self.flow.columns(ablated)), 2)
        self.now = torch.zeros_like(self.ablated)
        self.heads = {
            layer: {kind: self.parts.clean(f"attn.hook_{kind}", layer) for kind in "qkvz"}
            for layer in range(self.flow.n_layers)
        }

    @torch.no_grad()
    def trials(
        self,
        circuit: Edges,
        reader: int,
        shifts: Float[Tensor, "trial batch pos d_model"],
        needed: Needs,
        value: Float[Tensor, " batch"],
    ) -> Branches:
        """What a circuit does with something else at one reader.

        Args:
            circuit: edges that are in.
            shifts: what this reader reads more than it does now.
            needed: where what readers read reaches the metric.
            value: the metric now.
        """
        found = Branches(value.expand(len(shifts), -1))
        part = self.graph.readers[reader]
        seen = self._reads_now(circuit, reader)[None] + shifts
        if part.part == LOGITS:
            return replace(found, values=self.parts.measured(seen))
        at = (shifts != 0).any(-1).any(0) & torch.from_numpy(needed[reader]).to(shifts.device)
        if part.part == MLP:
            self._run_mlp(found, part.layer, seen, at)
        else:
            self._run_heads(found, part.layer, {reader: (seen, at)}, circuit, needed)
        after = next(index for index in range(reader + 1, len(self.graph.readers)) if self._is_later(part, index))
        self._spread(found, circuit, needed, after)
        return found

    def _is_later(self, part: Receiver, index: int) -> bool:
        """Whether a reader is computed after another one, and not beside it."""
        other = self.graph.readers[index]
        return other.layer != part.layer or (other.part == MLP and part.part != MLP)

    def _spread(self, found: Branches, circuit: Edges, needed: Needs, after: int) -> None:
        """Carry what has moved through all later readers that see it."""
        pending: dict[int, tuple[Tensor, Tensor]] = {}
        for index in range(after, len(self.graph.readers)):
            part = self.graph.readers[index]
            at = self._reached(found, circuit, index) & torch.from_numpy(needed[index]).to(self.now.device)
            if at.any():
                pending[index] = self._reads_after(found, circuit, index), at
            following = self.graph.readers[index + 1] if part.part != LOGITS else None
            if not pending or (
                following and (following.layer, following.part == MLP) == (part.layer, part.part == MLP)
            ):
                continue
            if part.part == LOGITS:
                found.values = self.parts.measured(pending[index][0])
            elif part.part == MLP:
                self._run_mlp(found, part.layer, *pending[index])
            else:
                self._run_heads(found, part.layer, pending, circuit, needed)
            pending = {}

    def _reached(self, found: Branches, circuit: Edges, reader: int) -> Bool[Tensor, "batch pos"]:
        """Where a reader sees something else through edges that are in."""
        at = torch.zeros(self.now.shape[:2], dtype=torch.bool, device=self.now.device)
        for writer, moved in found.at.items():
            if circuit[:, writer, reader].any():
                at |= moved & (self._inside(circuit, slice(writer, writer + 1), reader)[..., 0, 0] > 0)
        return at

    def keep(self, found: Branches, row: int) -> None:
        """One of the trials is the present state from now on."""
        for writer, value in found.moved.items():
            self.now[:, :, writer] = value[row]
        for layer, kinds in found.heads.items():
            self.heads[layer] |= {kind: value[row] for kind, value in kinds.items()}

    def shift(self, place: int, writer: int) -> Stream:
        """What a reader reads more without an edge that is in now."""
        moved = self.ablated[:, :, writer] - self.now[:, :, writer]
        place_of = self.contrast.place_of
        return moved if place_of is None else moved * (place_of == place)[:, :, None]

    def _reads_now(self, circuit: Edges, reader: int) -> Stream:
        """What a reader reads in the present state."""
        seen = int(self.graph.seen[reader])
        inside = self._inside(circuit, slice(seen), reader)
        moved = inside * self.now[:, :, :seen] + (1 - inside) * self.ablated[:, :, :seen]
        return self._clean_stream(self.graph.readers[reader]) + moved.sum(2)

    def _reads_after(self, found: Branches, circuit: Edges, reader: int) -> Float[Tensor, "trial batch pos d_model"]:
        total = self._reads_now(circuit, reader)[None].repeat(len(found.values), 1, 1, 1)
        for writer, moved in found.moved.items():
            if circuit[:, writer, reader].any():
                total += self._inside(circuit, slice(writer, writer + 1), reader)[:, :, 0] * (
                    moved - self.now[:, :, writer]
                )
        return total

    def _inside(self, circuit: Edges, writers: slice, reader: int) -> Float[Tensor, "_ _ some_writer 1"]:
        """1 where edges into a reader are in."""
        chosen = torch.from_numpy(circuit[:, writers, reader]).to(self.now)
        place_of = self.contrast.place_of
        return (chosen[0][None, None] if place_of is None else chosen[place_of])[..., None]

    def _clean_stream(self, part: Receiver) -> Stream:
        if part.part == LOGITS:
            return self.parts.clean(POST, self.flow.n_layers - 1)
        return self.parts.clean(MLP_IN if part.part == MLP else PRE, part.layer)

    def _run_mlp(self, found: Branches, layer: int, seen: Tensor, at: Bool[Tensor, "batch pos"]) -> None:
        """An MLP, where it reads something else and what it writes is read."""
        rows, index = seen[:, at], self.graph.writer_index[f"M{layer}"]
        wrote = self.parts.mlp(layer, rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        moved = self.now[None, :, :, index].repeat(len(seen), 1, 1, 1)
        moved[:, at] = wrote - self.contrast.clean.mlp[layer][at]
        found.moved[index], found.at[index] = moved, at

    def _run_heads(
        self, found: Branches, layer: int, pending: Mapping[int, tuple[Tensor, Tensor]], circuit: Edges, needed: Needs
    ) -> None:
        """The heads of a layer, some of which read something else at some positions; each where what it writes is read."""
        reads, n = self.flow.reads[layer], len(found.values)
        given = {kind: self.heads[layer][kind][None].repeat(n, 1, 1, 1, 1) for kind in "qkv"}
        after = torch.zeros(self.now.shape[:2], dtype=torch.bool, device=self.now.device)
        for reader, (stream, at) in pending.items():
            part = self.graph.readers[reader]
            weight, bias = reads.weights[part.part][part.head], reads.biases[part.part]
            made = reads.normed(stream[:, at]) @ weight
            given[part.part][:, at, part.head] = made if bias is None else made + bias[part.head]
            self.parts.count(made[..., 0].numel() * weight.numel())
            after |= at if part.part == "q" else at.int().cummax(1).values.bool()
        z, attended = self.parts.attention(layer, given)
        z = torch.where(after[:, :, None, None], z, self.heads[layer]["z"])
        found.heads[layer] = {**given, "z": z}
        first = self.graph.writer_index[f"L{layer}H0"]
        for head in self._heads_moved(layer, list(pending), z):
            query = self.graph.inputs_of(self.graph.writers[first + head])[0]
            at = after & torch.from_numpy(needed[query]).to(after.device)
            if circuit[:, first + head].any() and at.any():
                moved = self.now[None, :, :, first + head].repeat(n, 1, 1, 1)
                moved[:, at] = self._written(layer, head, z, attended, at)
                found.moved[first + head], found.at[first + head] = moved, at

    def _heads_moved(self, layer: int, readers: Sequence[int], z: Tensor) -> list[int]:
        """Heads that write something else: those behind the readers, all of them where a norm joins them."""
        shape = self.graph.layers[layer]
        if shape.is_joined:
            return list(range(shape.heads))
        first = self.graph.writer_index[f"L{layer}H0"]
        behind = [
            head
            for head in range(shape.heads)
            if {*readers} & {*self.graph.inputs_of(self.graph.writers[first + head])}
        ]
        now = self.heads[layer]["z"]
        difference = (z - now).abs().amax((0, 1, 2, 4)) > ROUNDING * now.abs().max()
        return sorted({*behind, *difference.nonzero()[:, 0].tolist()})

    def _written(
        self, layer: int, head: int, z: Tensor, attended: Tensor | None, at: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "trial some d_model"]:
        """What a head writes at some positions, less what it wrote in the clean run."""
        clean, w_out = self.contrast.clean.heads[layer], self.flow.model.w_out(layer)
        if attended is not None:
            state = self.flow.head_state(layer, z.flatten(0, 1), attended).unflatten(0, z.shape[:2])
            return state[:, :, :, head][:, at] - clean[:, :, head][at]
        self.parts.count(len(z) * int(at.sum()) * w_out[0].numel())
        return (z[:, :, :, head][:, at] - clean[:, :, head][at]) @ w_out[head]
