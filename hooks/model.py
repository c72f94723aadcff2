"""HookedModel: one model, opened so that every head can be read and edited."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.hooks.adapters.base import Adapter, Fired, HookFn
from interp.hooks.batch import Batch
from interp.hooks.capture import Cache, Recorder
from interp.hooks.interventions import Hook, Intervention
from interp.hooks.names import NAMED_ONLY, HeadId, match_names
from interp.hooks.prompts import Prompts
from interp.kernels.errors import InterpError, suggest

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from interp.hooks.generation.result import Generation
    from interp.hooks.generation.sampling import Sampling
    from interp.hooks.probe import Certificate
    from interp.hooks.statistics import AttentionStatistics, Wanted

RESULT = "attn.hook_result"


class HookedModel:
    """A model whose every attention head can be read, edited and put back.

    Make one with `interp.load(name)`, `HookedModel.from_hf(hf_model, tokenizer)` or
    `HookedModel.from_transformer_lens(bridge)`.

    Attributes:
        adapter: the hook points of the model behind it.
        tokenizer, processor: what turns text and images into inputs; None where not given.
        name: for results and messages.
        source: digests and revision of the files it came from; empty for a model made in memory.
        has_trained_head: False where the output layer was freshly initialised; logit metrics then refuse.
        certificate: this model with all hooks in place against the untouched one.
    """

    def __init__(
        self,
        adapter: Adapter,
        tokenizer: Any = None,
        *,
        processor: Any = None,
        name: str = "",
        source: Mapping[str, Any] | None = None,
        has_trained_head: bool = True,
    ) -> None:
        from interp.hooks.probe import certify

        self.adapter = adapter
        self.tokenizer = tokenizer
        self.processor = processor
        self.name = name or adapter.describe()["architecture"]
        self.source = dict(source or {})
        self.has_trained_head = has_trained_head
        self._edits: list[Intervention] = []
        self.certificate: Certificate = certify(self)

    @classmethod
    def from_hf(
        cls, model: nn.Module, tokenizer: Any = None, *, processor: Any = None, name: str = "", **about: Any
    ) -> HookedModel:
        """Open a transformers model. It is used as it is, in evaluation mode, and never changed.

        Raises:
            InterpError: E401 no attention; E406 hooked and plain model disagree.
        """
        from interp.hooks.adapters.huggingface import HuggingFaceAdapter

        if model.training:
            raise InterpError(
                "E205", "the model is in training mode; dropout would make every number random", fix="call model.eval()"
            )
        return cls(HuggingFaceAdapter(model), tokenizer, processor=processor, name=name, **about)

    @classmethod
    def from_transformer_lens(cls, bridge: TransformerBridge, tokenizer: Any = None, *, name: str = "") -> HookedModel:
        """Open a booted or native TransformerLens bridge through its own hook points."""
        from interp.hooks.adapters.transformer_lens import BridgeAdapter

        return cls(BridgeAdapter(bridge), tokenizer or bridge.tokenizer, name=name)

    def to_transformer_lens(self) -> TransformerBridge:
        """A TransformerLens bridge over a copy of this model's weights; this model is left as it is."""
        from interp.hooks.adapters.transformer_lens import bridge_copy

        return bridge_copy(self)

    @property
    def heads(self) -> Mapping[str, tuple[int, ...]]:
        """Query heads of each layer, by tower ('' is the main one)."""
        return self.adapter.heads

    @property
    def kv_heads(self) -> Mapping[str, tuple[int, ...]]:
        return self.adapter.kv_heads

    @property
    def n_layers(self) -> int:
        """Layers of the main tower, with and without attention."""
        return len(self.heads[""])

    def kv_head(self, head: HeadId) -> int:
        """The key/value head that a query head reads: groups are of n_heads / n_kv_heads neighbours."""
        return head.head * self.kv_heads[head.tower][head.layer] // self.heads[head.tower][head.layer]

    @property
    def dtype(self) -> torch.dtype:
        return self.adapter.dtype

    @property
    def device(self) -> torch.device:
        return self.adapter.device

    def w_out(self, layer: int, tower: str = "") -> Float[Tensor, "head d_head d_model"]:
        """Output projection W_O of a layer, head by head."""
        return self.adapter.w_out(layer, tower)

    def check_point(self, name: str) -> None:
        """Raise unless hooks on this point are live: E403 with the reason, E201 for an unknown name."""
        if name in self.adapter.refused:
            raise InterpError(
                "E403", f"{name} is not available on {self.name}", where=name, fix=self.adapter.refused[name]
            )
        if name not in self.adapter.available:
            raise InterpError("E201", f"no hook point is called {name!r}", fix=suggest(name, self.adapter.available))

    def batch(
        self, prompts: Prompts | None = None, *, images: Any = None, padding_side: str = "right", truncate: bool = False
    ) -> Batch:
        """Prompts, and images where the model sees, as one padded batch on the model's device.

        Args:
            prompts: text, token ids, chat messages (`[{"role": ..., "content": ...}]`), a list of these, a mapping of
                model inputs, or a Batch.
            images: one image a prompt (anything the model's processor takes); the tokens that stand for it have the role
                'image'.
            padding_side: 'right' or 'left'; both give the same numbers.
            truncate: cut prompts longer than the model's positions instead of refusing them.

        Raises:
            InterpError: E201 no tokenizer or processor; E304 empty; E309 too long; E303 unknown kind of prompt;
                E312 a batch of another tokenizer, or tokens without an embedding.
        """
        from interp.hooks.reading import read

        return read(self, prompts, images, padding_side=padding_side, truncate=truncate).to(self.device)

    def tokens(self, batch: Batch) -> list[list[str]]:
        """The tokens of each prompt as text, padding left out."""
        rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids.cpu(), batch.mask.cpu(), strict=True)]  # type: ignore[union-attr]
        if self.tokenizer is None:
            return [[str(index) for index in row] for row in rows]
        return [[self.tokenizer.decode([index]) for index in row] for row in rows]

    def __call__(self, prompts: Prompts, **options: Any) -> Tensor:
        """The model's output under the interventions in force: logits [batch pos d_vocab], [batch label], or hidden states."""
        return self.run_with_hooks(prompts, {}, **options)

    def run_with_cache(
        self, prompts: Prompts, names: str | Sequence[str] = "*", *, grad: bool = False, **options: Any
    ) -> tuple[Tensor, Cache]:
        """The output and the activations at the hook points that match.

        Args:
            prompts: see `batch`, which also takes the options.
            names: globs over hook names. A glob leaves out points of a tower that did not run and, unless it names
                them, `attn.hook_result`, which is large and made of z and W_O, and `attn.hook_operator`, z once more.
            grad: keep the graph for a backward pass.

        Raises:
            InterpError: E201 where a name matches nothing; E403 where a named point is refused; E404 where nothing ran.
        """
        wanted = self._wanted(names)
        derived = [name for name in wanted if name.endswith(RESULT)]
        read = dict.fromkeys(name.replace(RESULT, "attn.hook_z") for name in wanted)
        recorder = Recorder(detach=not grad)
        batch = self.batch(prompts, **options)
        output = self._run(batch, {name: [recorder] for name in read}, must_fire=False, grad=grad)
        tensors = recorder.tensors()
        literal = {
            name for name in ([names] if isinstance(names, str) else names) if not any(sign in name for sign in "*?[")
        }
        silent = literal - set(tensors) - set(derived)
        if silent or not tensors:
            raise InterpError(
                "E404",
                f"nothing was read at {', '.join(sorted(silent)) or names}: that part of the model did not run on this input",
                fix="a vision tower runs only when images are given",
            )
        for name in derived:
            point = self.adapter.available[name]
            z = tensors[name.replace(RESULT, "attn.hook_z")]
            tensors[name] = torch.einsum("bphd,hdm->bphm", z, self.w_out(point.layer, point.tower))  # type: ignore[arg-type]
        return output, Cache({name: tensors[name] for name in wanted if name in tensors}, batch)

    def _wanted(self, names: str | Sequence[str]) -> list[str]:
        for name in [names] if isinstance(names, str) else names:
            if name in self.adapter.refused:
                self.check_point(name)
        matched = match_names(names, self.adapter.available)
        given = [names] if isinstance(names, str) else names
        hidden = [kind for kind in NAMED_ONLY if not any(kind.removeprefix("attn.") in name for name in given)]
        return [name for name in matched if not name.endswith(tuple(hidden))]

    def run_with_hooks(
        self, prompts: Prompts, hooks: Mapping[str, HookFn | Sequence[HookFn]], *, grad: bool = False, **options: Any
    ) -> Tensor:
        """The output with functions of your own at hook points: `fn(tensor, context) -> tensor or None`.

        Raises:
            InterpError: E403 or E201 for the name; E404 where a hook did not fire exactly once; E206 for a wrong shape.
        """
        return self._run(
            self.batch(prompts, **options),
            {name: list(fn) if isinstance(fn, Sequence) else [fn] for name, fn in hooks.items()},
            grad=grad,
        )

    def run_with_statistics(
        self,
        prompts: Prompts,
        statistics: Wanted,
        *,
        layers: Sequence[int] | None = None,
        tower: str = "",
        backend: str = "auto",
        **options: Any,
    ) -> tuple[Tensor, AttentionStatistics]:
        """The output and statistics of attention by layer, at any length: `found[3]["entropy"]`.

        See `interp.hooks.statistics.run_with_statistics`.
        """
        from interp.hooks.statistics import run_with_statistics

        return run_with_statistics(self, prompts, statistics, layers=layers, tower=tower, backend=backend, **options)

    @property
    def is_edited(self) -> bool:
        """Whether interventions are in force."""
        return bool(self._edits)

    @contextmanager
    def edit(self, *interventions: Intervention) -> Iterator[HookedModel]:
        """Interventions in force for every forward inside the block; nothing is left of them after it."""
        self._edits.extend(interventions)
        try:
            yield self
        finally:
            del self._edits[len(self._edits) - len(interventions) :]

    def _run(
        self, batch: Batch, extra: Mapping[str, Sequence[HookFn]], *, must_fire: bool = True, grad: bool = False
    ) -> Tensor:
        """Edits first, then the extra hooks, so that what is read is what the model used."""
        hooks: dict[str, list[HookFn]] = {}
        for intervention in self._edits:
            for name, function in intervention.hooks(self, batch):
                hooks.setdefault(name, []).append(function)
        required = set(hooks) | (set(extra) if must_fire else set())
        for name, functions in extra.items():
            hooks.setdefault(name, []).extend(functions)
        return self._attached(batch, hooks, required, lambda: self.adapter.forward(batch.inputs), grad=grad)[0]

    def run_edited(self, batch: Batch, hooks: Sequence[Hook], forward: Callable[[], Tensor]) -> tuple[Tensor, Fired]:
        """What `forward` gives with these hooks on this batch in force, and how often each point fired.

        Raises:
            InterpError: as `run_with_hooks`.
        """
        by_name: dict[str, list[HookFn]] = {}
        for name, function in hooks:
            by_name.setdefault(name, []).append(function)
        return self._attached(batch, by_name, set(by_name), forward)

    def _attached(
        self,
        batch: Batch,
        hooks: Mapping[str, Sequence[HookFn]],
        required: set[str],
        forward: Callable[[], Tensor],
        *,
        grad: bool = False,
    ) -> tuple[Tensor, Fired]:
        """One forward with hooks, of which the required ones must fire once."""
        for name in hooks:
            self.check_point(name)
            if name.endswith(RESULT):
                raise InterpError(
                    "E403",
                    f"{name} is computed, not part of the forward",
                    where=name,
                    fix="edit hook_z instead; result is z times W_O",
                )
        with torch.set_grad_enabled(grad), self.adapter.attached(hooks, batch) as fired:
            output = forward()
        wrong = {name: fired[name] for name in required if fired[name] != 1}
        if wrong:
            counts = ", ".join(f"{name} {count} times" for name, count in sorted(wrong.items()))
            raise InterpError(
                "E404",
                f"hooks must fire once a forward, but fired: {counts}",
                where=f"the forward of the token at {batch.start}" if batch.start else "",
                fix="a vision tower runs only when images are given; otherwise please report this architecture",
            )
        return output, fired

    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        edits: Sequence[Intervention] = (),
        images: Any = None,
        sample: Sampling | None = None,
        stop: Collection[int | str] | None = None,
        logits: bool = False,
        padding_side: str = "right",
        cached: bool = True,
    ) -> Generation:
        """What the model writes after prompts, with interventions in force for every token.

        The prompts are read in one forward, and each token that is written in one of its own, from a cache of keys and
        values; interventions act in all of them, and the logits are those of whole texts. Their positions are those of
        prompt and written text: numbers count in the text as given, roles are in the prompt, 'end' is each newest
        token (the prompt's last one, and every one that was written).

        Args:
            prompts, images, padding_side: see `batch`.
            max_new_tokens: of each text.
            edits: in force beside those of `edit`, after them.
            sample: how tokens are drawn; None takes the likeliest.
            stop: tokens and strings that end a text; None: what ends one for the model and its tokenizer.
            logits: keep them.
            cached: False runs the whole text anew for every token. Where the cache of a model does not give the logits
                of whole texts, that is done anyway, and the result's `method` says so.

        Raises:
            InterpError: E407 a model that writes no text; E309 too many tokens; E205 interventions that cannot mean
                the same for one token and a whole text (references by position, operators that look ahead); E404 an
                intervention that does not reach a token; E313 positions outside the text.
        """
        from interp.hooks.generation.run import generate

        batch = self.batch(prompts, images=images, padding_side=padding_side)
        return generate(
            self, batch, [*self._edits, *edits], max_new_tokens=max_new_tokens, sample=sample, stop=stop,
            keep_logits=logits, cached=cached,
        )  # fmt: skip

    def run_plain(self, prompts: Prompts, **options: Any) -> Tensor:
        """The untouched model, whatever interventions are in force."""
        with torch.no_grad():
            return self.adapter.plain_forward(self.batch(prompts, **options).inputs)

    def describe(self) -> dict[str, Any]:
        """What a result records about its model."""
        return {
            "name": self.name,
            **self.adapter.describe(),
            "n_layers": self.n_layers,
            "heads": {tower: list(layers) for tower, layers in self.heads.items()},
            "kv_heads": {tower: list(layers) for tower, layers in self.kv_heads.items()},
            **self.source,
        }

    def __repr__(self) -> str:
        about = self.adapter.describe()
        towers = "; ".join(
            f"{tower or 'main'}: {len(layers)} layers x {max(layers)} heads" for tower, layers in self.heads.items()
        )
        return f"HookedModel({self.name}, {about['architecture']}, {towers}, {about['dtype']} on {about['device']})"
