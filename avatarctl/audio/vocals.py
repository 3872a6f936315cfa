"""Separate the voice from the music with an MDX-Net separator (ONNX), block by block, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatarctl.audio.track import Blocks
from avatarctl.errors import WeightsError

# Of Kim Vocal 2, as Ultimate Vocal Remover's table of models lists them; the network's file doesn't tell.
RATE_HZ, N_FFT, HOP = 44_100, 7680, 1024
GAIN = 1.009  # makes up for the level that the network takes away
SILENT_BINS = 3  # below 17 Hz there is no voice
MARGIN = N_FFT // 2  # samples at each end of a piece that its neighbours know better


class Separator:
    """An MDX-Net that finds the voice in the spectrum of a piece of stereo sound (Kim et al., "KUIELab-MDX-Net", 2021).

    It runs by onnxruntime, on its GPU where it has one. Raises ``WeightsError`` for a file that is no such network.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        for pool in ("intra", "inter"):  # threads that wait sleep, as OpenMP's do (avatarctl/threads.py)
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        hint = "fetch it again: avatarctl fetch vocal-separator --force"
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers)
        except (failures.Fail, failures.InvalidProtobuf, failures.InvalidGraph, failures.InvalidArgument) as error:
            raise WeightsError(
                f"{path}: got a file that is no whole ONNX network ({str(error).splitlines()[0]})", hint
            ) from error
        wants = self._session.get_inputs()[0]
        shape = tuple(wants.shape)
        if len(shape) != 4 or shape[1] != 4 or not all(isinstance(n, int) for n in shape[2:]) or shape[2] > MARGIN + 1:
            raise WeightsError(
                f"{path}: got a network of {shape}, expected (pieces, 4, at most {MARGIN + 1} frequencies, frames)",
                hint,
            )
        self._input, self._frequencies, self._frames = wants.name, int(shape[2]), int(shape[3])
        self._window = torch.hann_window(N_FFT)

    @property
    def piece(self) -> int:
        """Return the samples of a piece; all but ``MARGIN`` at each end are heard."""
        return HOP * (self._frames - 1)

    def voice(self, piece_CT: Tensor) -> Tensor:
        """Return the voice (2, T) in a piece of stereo sound (2, ``piece``) at 44.1 kHz."""
        spectrum_CFT = torch.stft(piece_CT, N_FFT, HOP, window=self._window, center=True, return_complex=True)
        parts_CFT2 = torch.view_as_real(spectrum_CFT)
        # Left real, left imaginary, right real, right imaginary.
        asked = parts_CFT2.permute(0, 3, 1, 2).flatten(0, 1)[None, :, : self._frequencies].clone()
        asked[:, :, :SILENT_BINS] = 0
        (told,) = self._session.run(None, {self._input: asked.numpy()})
        found_CFT2 = torch.from_numpy(told)[0].unflatten(0, (2, 2)).permute(0, 2, 3, 1).contiguous()
        whole = torch.zeros_like(spectrum_CFT)
        whole[:, : self._frequencies] = torch.view_as_complex(found_CFT2)
        return GAIN * torch.istft(whole, N_FFT, HOP, window=self._window, center=True, length=self.piece)


def voice_alone(
    separator: Separator, rate_hz: int, blocks: Blocks, after_each: Callable[[], None] = lambda: None
) -> tuple[int, Blocks]:
    """Return what ``audio.decode.read_blocks`` gives, of the voice alone: its rate, and blocks of stereo samples.

    ``after_each`` is called after every piece of some six seconds. The last sample is that of the recording.
    """
    return RATE_HZ, _voice(separator, _stereo(rate_hz, blocks), after_each)


def _voice(separator: Separator, sound: Generator[Tensor, None, None], after_each: Callable[[], None]) -> Blocks:
    step = separator.piece - 2 * MARGIN
    known = torch.zeros(2, MARGIN)  # what is before the recording
    ahead = 0  # samples of the recording in ``known`` that were not given yet
    with closing(sound):
        for block_CT in sound:
            known, ahead = torch.cat([known, block_CT], 1), ahead + block_CT.shape[1]
            while known.shape[1] >= separator.piece:
                yield _middle(separator, known[:, : separator.piece], step)
                after_each()
                known, ahead = known[:, step:], ahead - step
    while ahead > 0:
        missing = max(separator.piece - known.shape[1], 0)
        piece = torch.nn.functional.pad(known[:, : separator.piece], (0, missing))
        yield _middle(separator, piece, min(step, ahead))
        after_each()
        known, ahead = known[:, step:], ahead - step


def _middle(separator: Separator, piece_CT: Tensor, count: int) -> NDArray[np.float32]:
    voice: NDArray[np.float32] = separator.voice(piece_CT)[:, MARGIN : MARGIN + count].T.contiguous().numpy()
    return voice


def _stereo(rate_hz: int, blocks: Blocks) -> Generator[Tensor, None, None]:
    """Return stereo (2, T) at 44.1 kHz; one channel counts twice, more than two as their mean."""
    stream = soxr.ResampleStream(rate_hz, RATE_HZ, 2, dtype="float32", quality="HQ")
    for chunk_TC in _resampled(stream, blocks):
        if len(chunk_TC):
            yield torch.from_numpy(np.ascontiguousarray(chunk_TC.T))


def _resampled(stream: soxr.ResampleStream, blocks: Blocks) -> Iterator[NDArray[np.float32]]:
    with closing(blocks):
        for block_TC in blocks:
            if block_TC.shape[1] != 2:
                block_TC = np.repeat(block_TC.mean(axis=1, keepdims=True), 2, axis=1)
            yield stream.resample_chunk(np.ascontiguousarray(block_TC, np.float32))
    yield stream.resample_chunk(np.empty((0, 2), np.float32), last=True)
