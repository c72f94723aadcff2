"""Some rows of some heads with the keys they see: scores, pattern, and every number that is asked of them."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.kernels.backends.primitives import Primitives, Request

HIDDEN = -1e30
"""The score of a key that is not seen: its weight is 0, and unlike -inf, 0 times it is 0."""
LANE = 64
"""Keys whose largest weight is found together, before the one among them: a scan for indices is slow."""


class Buffers:
    """Memory by name, made once and handed out again in any shape that fits."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.held = device, dict[str, Tensor]()

    def get(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.held or self.held[name].numel() < size:
            self.held[name] = torch.empty(size, device=self.device)
        return self.held[name][:size].view(shape)


class Tile:
    """Rows of heads of one prompt, and the ranges of keys that they see, side by side."""

    def __init__(
        self,
        request: Request,
        batch: int,
        heads: slice,
        rows: slice,
        ranges: tuple[tuple[int, int], ...],
        buffers: Buffers,
    ) -> None:
        self.request, self.batch, self.heads, self.rows, self.ranges = request, batch, heads, rows, ranges
        self.buffers = buffers
        self.shape = heads.stop - heads.start, rows.stop - rows.start, sum(stop - start for start, stop in ranges)

    def answer(self, answer: Primitives, band: Float[Tensor, "weighting place column"] | None) -> None:
        """Writes what was asked into its place."""
        if not self.ranges:
            self._write(answer.lse, torch.full(self.shape[:2], float("-inf"), device=self.buffers.device))
            self._write(answer.argmax, torch.full(self.shape[:2], -1, device=self.buffers.device))
            return
        scores = self.scores()
        pattern, lse, most, above = self.pattern(scores)
        self._write(answer.lse, lse)
        if self.request.output:
            moved = torch.bmm(pattern, self._keys(self.request.v))
            self._write(answer.output, moved if self.request.rule == "softmax" else moved * lse.exp()[..., None])
        if self.request.largest:
            self._largest(pattern, answer)
        if self.request.functionals is not None:
            values = self._functionals(self.request.functionals).expand(self.shape[0], -1, -1)
            self._write(answer.functionals, torch.bmm(values, pattern.transpose(1, 2)).transpose(1, 2))
        if self.request.columns is not None:
            self._columns(pattern, self.request.columns, answer)
        if band is not None:
            self._write(answer.band, self._band(pattern, band))
        if self.request.entropy:
            self._write(answer.entropy, self._entropy(pattern, scores, most, above))
        if self.request.squares:
            self._write(answer.squares, torch.mul(pattern, pattern, out=scores).sum(-1))

    def _write(self, whole: Tensor | None, values: Tensor) -> None:
        assert whole is not None
        whole[self.batch, self.heads, self.rows] = values.to(whole.dtype)

    def scores(self) -> Float[Tensor, "head row key"]:
        """Scores, `HIDDEN` where a key isn't seen."""
        request, out = self.request, self.buffers.get("scores", *self.shape)
        scale = request.scale if request.softcap is None else request.scale / request.softcap
        queries = request.q[self.batch, self.heads, self.rows].float() * scale
        torch.bmm(queries, self._keys(request.k).transpose(1, 2), out=out)
        if request.softcap is not None:
            out.tanh_().mul_(request.softcap)
        if request.slopes is not None:
            distance = (self._at[:, None] - self.keys).abs_()
            out.addcmul_(distance, request.slopes[self.heads, None, None].float(), value=-1)
        if request.shift is not None:
            out.add_(self._rowwise(request.shift)[..., None])
        for columns in self._partial:
            out[..., columns].masked_fill_(~self._open(columns), HIDDEN)
        return out

    def pattern(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows that sum to 1; and of each their lse, the largest score, and how much larger the lse is than that."""
        out, most = self.buffers.get("pattern", *self.shape), scores.amax(-1)
        if self.request.rule == "softmax":
            torch.softmax(scores, -1, out=out)
            above = -out.amax(-1).log()  # the largest weight is exp(most - lse)
            lse = most + above
        else:
            total = torch.sigmoid(scores, out=out).sum(-1)
            lse = total.log()
            above = lse - most
            out.div_(total.clamp(min=torch.finfo(total.dtype).tiny)[..., None])
        low, high, first, stop = self._bounds
        blind = (high <= low) & (stop <= first)
        if bool(blind.any()):
            out.masked_fill_(blind[..., None], 0)
            lse, above = lse.masked_fill(blind, float("-inf")), above.masked_fill(blind, 0)
        return out, lse, most, above

    @cached_property
    def keys(self) -> Int[Tensor, " key"]:
        """Indices of the keys."""
        return torch.cat([torch.arange(start, stop, device=self.buffers.device) for start, stop in self.ranges])

    @cached_property
    def _at(self) -> Int[Tensor, " row"]:
        """Indices of the keys that the queries are aligned with."""
        offset = self.request.k.shape[2] - self.request.q.shape[2]
        return torch.arange(self.rows.start + offset, self.rows.stop + offset, device=self.buffers.device)

    def _keys(self, x: Tensor) -> Float[Tensor, "head key d"]:
        """Keys or values of these heads and ranges."""
        group = self.request.q.shape[1] // x.shape[1]
        index = [head // group for head in range(self.heads.start, self.heads.stop)]
        one_each = index == list(range(index[0], index[-1] + 1))
        heads = x[self.batch, index[0] : index[-1] + 1] if one_each else x[self.batch, index]
        return self._chosen(heads, 1).float()

    def _chosen(self, x: Tensor, axis: int) -> Tensor:
        pieces = [x.narrow(axis, start, stop - start) for start, stop in self.ranges]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)

    def _rowwise(self, x: Tensor) -> Tensor:
        """Numbers of queries, [#batch #head query_pos], of these."""
        of_batch = x[min(self.batch, x.shape[0] - 1)]
        return (of_batch if of_batch.shape[0] == 1 else of_batch[self.heads])[:, self.rows]

    @cached_property
    def _bounds(self) -> tuple[Tensor, ...]:
        rows = self.request.rows
        return tuple(self._rowwise(bound) for bound in (rows.low, rows.high, rows.first, rows.stop))

    def _open(self, columns: slice) -> Bool[Tensor, "#head row column"]:
        low, high, first, stop = (bound[..., None] for bound in self._bounds)
        keys = self.keys[columns]
        return ((keys >= low) & (keys < high)) | ((keys >= first) & (keys < stop))

    @property
    def _partial(self) -> list[slice]:
        """Columns that not every query sees."""
        low, high, first, stop = torch.broadcast_tensors(*self._bounds)
        width = self.shape[2]
        some = high > low
        if len(self.ranges) > 1 or bool((~some & (stop > first)).any()) or not bool(some.any()):
            return [slice(0, width)]
        start = self.ranges[0][0]
        left, right = int(low[some].max()) - start, int(high[some].min()) - start
        return [part for part in (slice(0, left), slice(max(left, right), width)) if part.start < part.stop]

    def _largest(self, pattern: Tensor, answer: Primitives) -> None:
        width = self.shape[2]
        if width % LANE or width == LANE:
            most = pattern.max(-1)
            values, places = most.values, most.indices
        else:
            lanes = pattern.unflatten(-1, (-1, LANE))
            values, lane = lanes.amax(-1).max(-1)
            inside = lanes.gather(2, lane[..., None, None].expand(-1, -1, 1, LANE))[:, :, 0].argmax(-1)
            places = lane * LANE + inside
        self._write(answer.largest, values)
        self._write(answer.argmax, self.keys[places].masked_fill(values <= 0, -1))

    def _functionals(self, values: Tensor) -> Float[Tensor, "#head functional key"]:
        of_batch = values[min(self.batch, values.shape[0] - 1)]
        chosen = of_batch if of_batch.shape[0] == 1 else of_batch[self.heads]
        return self._chosen(chosen, 1).float().transpose(1, 2)

    def _columns(self, pattern: Tensor, weights: Tensor, answer: Primitives) -> None:
        assert answer.columns is not None
        of_batch = weights[min(self.batch, weights.shape[0] - 1)]
        chosen = (of_batch if of_batch.shape[0] == 1 else of_batch[self.heads])[..., self.rows]
        widths = [stop - start for start, stop in self.ranges]
        sums = torch.bmm(chosen.float().expand(self.shape[0], -1, -1), pattern)
        for (start, stop), part in zip(self.ranges, sums.split(widths, -1), strict=True):
            answer.columns[self.batch, self.heads, :, start:stop] += part

    def _band(
        self, pattern: Tensor, table: Float[Tensor, "weighting place column"]
    ) -> Float[Tensor, "head row weighting"]:
        """The table's first column stands for the key that only the first row reaches."""
        length = table.shape[2] - table.shape[1] + 1
        first = int(self._at[0]) - length + 1
        sums = torch.zeros(*self.shape[:2], len(table), device=pattern.device)
        begin = 0
        for start, stop in self.ranges:
            low, high = max(start, first), min(stop, first + table.shape[2])
            if low < high:
                near = pattern[..., begin + low - start : begin + high - start]
                weights = table[:, : self.shape[1], low - first : high - first]
                out = self.buffers.get("near", *near.shape)
                sums += torch.stack([torch.mul(near, each, out=out).sum(-1) for each in weights], -1)
            begin += stop - start
        return sums

    def _entropy(self, pattern: Tensor, scores: Tensor, most: Tensor, above: Tensor) -> Float[Tensor, "head row"]:
        """Overwrites the scores."""
        if self.request.rule != "softmax":
            return torch.special.entr(pattern, out=scores).sum(-1)
        below = scores.sub_(most[..., None])  # not the scores themselves: large ones would cancel
        return above - torch.mul(pattern, below, out=below).sum(-1)
