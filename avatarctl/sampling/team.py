"""Share a sampler's windows among the processes of `torchrun` or `accelerate launch`, with the bits of one.

Every process knows the whole plan and the progress, so nobody has to be told what to do next: in each round every process
runs the leftmost ready window that is its own, and then all pass on the latent frames that neighbouring windows read
(about a megabyte). Windows that can run at the same time lie ``reach + 1`` apart, so that many neighbours belong to one
process. Process 0 owns folder and video: final latents go to it at once, windows in flight when it saves a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from avatarctl.sampling.denoise import Final, InFlight, Sampler
from avatarctl.sampling.wavefront import Order
from avatarctl.sampling.windows import Window

GO, SAVE, STOP = 0, 1, 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """This process's number among ``size``, and the device that tensors are passed on from."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Return whether this is the process that owns folder and video."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Return every process what process 0 has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def tell(self, word: int) -> int:
        """Return every process what process 0 says: GO, SAVE or STOP."""
        if self.size == 1:
            return word
        said = torch.tensor([word], device=self.device)
        dist.broadcast(said, src=0)
        return int(said.item())

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Return every process the tensor of one."""
        moved = tensor.to(self.device).contiguous()
        dist.broadcast(moved, src=source)
        return moved.to(tensor.device)

    def to_leader(self, tensor: Tensor, source: int) -> Tensor:
        """Bring a tensor of one process to process 0; elsewhere the tensor given comes back."""
        if source == 0 or self.rank not in (0, source):
            return tensor
        moved = tensor.to(self.device).contiguous()
        if self.rank == source:
            dist.send(moved, dst=0)
        else:
            dist.recv(moved, src=source)
        return moved.to(tensor.device)


def launched() -> bool:
    """Return whether a launcher started several processes for this command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join_team(device: torch.device) -> Team:
    """Meet the other processes (NCCL on GPUs, gloo on the CPU), or be a team of one."""
    if not launched():
        return Team()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL talks from the current one
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Team(dist.get_rank(), dist.get_world_size(), device)


class TeamSampler(Sampler):
    """A sampler that shares its windows with other processes.

    A window of another process holds right values only where neighbours overlap it, until :meth:`gather`.
    """

    def __init__(self, team: Team, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.team = team

    def owner(self, index: int) -> int:
        """Return the process that runs a window."""
        return index // (self.plan.reach + 1) % self.team.size

    def run(self, kind: Order = "wavefront") -> Iterator[list[Final]]:  # noqa: ARG002 (one order: all that is ready)
        """Run rounds until everything is final; each gives what became final by it (right values in process 0 alone)."""
        while not self.progress.finished():
            chosen: dict[int, int] = {}
            for index in self.progress.anti_diagonal():
                chosen.setdefault(self.owner(index), index)
            mine = chosen.get(self.team.rank)
            if mine is not None:
                self.windows.update(self.step([self.plan.get(mine)]))
            for source, index in sorted(chosen.items()):
                self._pass_on(self.plan.get(index), source)
            retired = [window for index in sorted(chosen.values()) for window in self.progress.advance(index)]
            yield [self._collect(self._retire(window)) for window in retired]

    def gather(self) -> None:
        """Bring every window in flight to process 0 whole, with what its guidance keeps."""
        for index, window in sorted(self.windows.items()):
            source = self.owner(index)
            if source == 0:
                continue
            keeps = torch.tensor([window.guidance_residual is not None])
            latents = self.team.to_leader(window.latents, source)
            guidance_residual = window.guidance_residual
            if bool(self.team.to_leader(keeps, source).item()):
                guidance_residual = self.team.to_leader(
                    torch.empty_like(latents) if guidance_residual is None else guidance_residual, source
                )
            self.windows[index] = InFlight(window.done, latents, guidance_residual)

    def _pass_on(self, window: Window, source: int) -> None:
        """Return every process the frames of a window, after its step, that other windows read."""
        edges = self._edges(window)
        if self.team.rank == source:
            self.team.broadcast(self.windows[window.index].latents[:, :, edges], source)
            return
        before = self.windows.get(window.index)
        latents = before.latents.clone() if before else torch.zeros_like(self.noise(window.start, window.stop))
        latents[:, :, edges] = self.team.broadcast(latents[:, :, edges], source)
        done = self.progress.done(window.index) + 1
        self.windows[window.index] = InFlight(done, latents, before.guidance_residual if before else None)

    def _edges(self, window: Window) -> list[int]:
        """Return the frames of a window that it shares with others."""
        shared: set[int] = set()
        for index in self.plan.left_of(window.index):
            shared |= set(range(window.start, min(self.plan.stop_of(index), window.stop)))
        for index in self.plan.right_of(window.index):
            shared |= set(range(self.plan.start_of(index), min(self.plan.stop_of(index), window.stop)))
        return sorted(frame - window.start for frame in shared)

    def _collect(self, final: Final) -> Final:
        return Final(final.window, final.start, self.team.to_leader(final.latents, self.owner(final.window)))
