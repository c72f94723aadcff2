"""`Opening`: what `interp.load` was given, so that a worker can open the same model from its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.kernels.errors import InterpError

if TYPE_CHECKING:
    from interp.hooks.model import HookedModel


@dataclass(frozen=True)
class Opening:
    """Arguments of `interp.load`.

    Attributes:
        name: bundled name, absolute path of a folder, or hub id.
        revision: of a hub id.
        dtype, device, attention: as the model was opened.
        allow_pickle: the model was opened from pickled weights, which its user allowed.
    """

    name: str
    revision: str | None
    dtype: str
    device: str
    attention: str | None
    allow_pickle: bool = False

    @classmethod
    def of(cls, model: HookedModel) -> Opening | None:
        """How to open this model again; None where it did not come from files."""
        source = model.source
        if "weights_sha256" not in source:
            return None
        about = model.adapter.describe()
        config = model.adapter.model.config  # type: ignore[attr-defined]
        local = source["revision"] == "local"
        return cls(
            name=str(Path(config.name_or_path).resolve()) if local else model.name,
            revision=None if source["revision"] in ("local", "bundled") else source["revision"],
            dtype=about["dtype"],
            device=about["device"],
            attention=config._attn_implementation,
            allow_pickle=any(not name.endswith(".safetensors") for name in source["weights_sha256"]),
        )

    @classmethod
    def required(cls, model: HookedModel, why: str) -> Opening:
        """The same; refused for a model that only exists in this process (E205)."""
        opening = cls.of(model)
        if opening is None:
            raise InterpError(
                "E205",
                f"{model.name} was made in memory; {why} opens the model itself, from files",
                fix='use executor="inline", or save_pretrained the model and interp.load the folder',
            )
        return opening

    def open(self, device: str | None = None) -> HookedModel:
        """The model, on this device instead where one is named."""
        from interp.loading import load

        return load(
            self.name,
            dtype=self.dtype,
            device=device or self.device,
            attention=self.attention,
            revision=self.revision,
            allow_pickle=self.allow_pickle,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
