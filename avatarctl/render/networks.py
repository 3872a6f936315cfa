"""The networks of a render: each is loaded and put in its place when it is first needed, and may serve the next render."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from avatarctl.networks import checkpoints, weight_dims
from avatarctl.networks.adapters import load_merged
from avatarctl.networks.memory import Workload
from avatarctl.networks.placement import Placement
from avatarctl.networks.residency import NARROW, residency_of
from avatarctl.render.inputs import Checked
from avatarctl.settings.placement import PlacementSettings
from avatarctl.weights import WeightFiles, checksum

LARGE = 500_000_000  # weights


class Networks:
    """Transformer (with its LoRAs merged), VAE and speech encoder of one set of files, and where they are.

    Loading waits until a network is used, so that conditions are made before the transformer takes its memory.
    """

    def __init__(self, files: WeightFiles, loras: Sequence[tuple[Path, float]], placement: Placement) -> None:
        self.files, self.placement = files, placement
        self.residency = residency_of(placement)
        self._loras = tuple(loras)

    @cached_property
    def text_len(self) -> int:
        """How many tokens of text the transformer reads; its weights need not be loaded for that."""
        return weight_dims.transformer_dims(self.files.transformer).text_len

    @cached_property
    def transformer(self) -> Any:
        """The transformer with its LoRAs."""
        file, dtype, device = self.files.transformer, self._transformer_dtype(), self.residency.load_device
        if self._loras:
            model, _ = load_merged(file, self._loras, dtype, device)
        else:
            model = checkpoints.load_transformer(file, dtype=dtype, device=device)
        return self.residency.place(model)

    def _transformer_dtype(self) -> torch.dtype | None:
        """Return the dtype to load the transformer in; None leaves its weights in the mapped file.

        On a CPU that computes in float32, a large network stored in 16 bits would take twice its file in memory of its own.
        """
        dtype = self.placement.dtype_of("transformer")
        if self.placement.device.type == "cpu" and dtype == torch.float32:
            stored, weights = weight_dims.stored_transformer(self.files.transformer)
            if stored in NARROW and weights > LARGE:
                return None
        return dtype

    @cached_property
    def vae(self) -> Any:
        """The VAE."""
        dtype = self.placement.dtype_of("vae")
        return self.residency.place(
            checkpoints.load_vae(self.files.vae, dtype=dtype, device=self.residency.load_device)
        )

    @cached_property
    def speech_encoder(self) -> Any:
        """The speech encoder."""
        dtype = self.placement.dtype_of("speech encoder")
        return self.residency.place(
            checkpoints.load_speech_encoder(self.files.speech_encoder, dtype=dtype, device=self.residency.load_device)
        )


class LoadedNetworks:
    """The networks of the last render of this process, for the next one with the same weights in the same places."""

    def __init__(self) -> None:
        self._key: Any = None
        self._networks: Networks | None = None
        self._asked: Any = None
        self._placement: Placement | None = None

    def of(self, checked: Checked, placement: Placement) -> Networks:
        """Return the networks of a render: those of the last one, if they are the same."""
        files, loras = checked.weights, checked.job.lora
        paths = (files.transformer, files.vae, files.speech_encoder, *(path for path, _ in loras))
        key = ([checksum(path) for path in paths], [scale for _, scale in loras], placement)
        if self._networks is None or self._key != key:
            self.clear()  # before: both may not fit
            self._key, self._networks = key, Networks(files, loras, placement)
        return self._networks

    def placement_of(self, checked: Checked, settings: PlacementSettings, work: Workload) -> Placement | None:
        """Return where they are, if this render is the last one's kind: what is free now says nothing of what fits."""
        return (
            self._placement
            if self._networks is not None and self._asked == self._kind(checked, settings, work)
            else None
        )

    def remember(self, checked: Checked, settings: PlacementSettings, work: Workload, placement: Placement) -> None:
        """Note where the networks of a render are put."""
        self._asked, self._placement = self._kind(checked, settings, work), placement

    @staticmethod
    def _kind(checked: Checked, settings: PlacementSettings, work: Workload) -> Any:
        return checked.weights, checked.job.lora, settings, replace(work, passes=0)

    def clear(self) -> None:
        """Forget them, so that their memory can be used."""
        networks, self._networks = self._networks, None
        if networks is None:
            return
        residency = networks.residency
        del networks
        gc.collect()
        residency.free()
