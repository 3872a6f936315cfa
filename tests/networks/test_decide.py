"""Tests with what is left open: the fastest memory mode that fits, and the next one when memory runs out all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks import placement as P
from avatarctl.networks.attention import fitting_attention
from avatarctl.networks.devices import COMPILE_FROM_PASSES
from avatarctl.networks.dims import TRANSFORMER_1_3B
from avatarctl.networks.full import during, is_full, stage_of
from avatarctl.networks.memory import MODES, Formats, Workload, choose, estimate_of
from avatarctl.networks.placement import Placement, decide, step_down
from avatarctl.networks.tiling import Tiling, tilings
from avatarctl.settings.placement import PlacementSettings

GIB = 2**30
WORK = Workload(TRANSFORMER_1_3B, 512, 512, passes=10_000)
BFLOAT16 = Formats()
Gpu = Callable[..., None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A GPU that torch tells of, with so much free memory; no kernel is tried."""

    def pretend(
        free: float = 80, capability: tuple[int, int] = (9, 0), runs: Callable[..., bool] = lambda *_: True
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (round(free * GIB), 80 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
        monkeypatch.setattr("avatarctl.networks.attention._runs", runs)
        monkeypatch.setattr(P, "can_compile", lambda: True)

    return pretend


def settings(**values: Any) -> PlacementSettings:
    return PlacementSettings(**{"device": "cuda", **values})


def needed(memory: str, tiling: Tiling | None = None) -> float:
    return estimate_of(WORK, BFLOAT16, memory, tiling).needed / GIB


def test_the_fastest_mode_that_fits_is_taken(gpu: Gpu) -> None:
    chosen = []
    for free in (80, needed("full"), needed("full") - 0.01, needed("model") - 0.01, needed("group") - 0.01, 0.5):
        gpu(free)
        placement = decide(settings(), WORK)
        name = None if placement.tiling is None else placement.tiling.name(512, 512)
        chosen.append((placement.memory, name))
        assert placement.fit is not None and placement.fit.fits == (free > 1)
    assert chosen[:4] == [("full", None), ("full", None), ("model", None), ("group", None)]
    # Whole pictures fit no more: as few tiles as can be, with as much of the transformer as fits beside them.
    assert chosen[4][1] is not None and chosen[4][0] != "sequential"
    assert chosen[5][0] == "sequential"


def test_without_tiles_the_last_resort_is_single_layers(gpu: Gpu) -> None:
    gpu(needed("group") - 0.01)
    placement = decide(settings(vae_tiling=False), WORK)
    assert (placement.memory, placement.tiling) == ("sequential", None)


@pytest.mark.parametrize("memory", ["full", "model", "group", "sequential"])
def test_a_mode_that_is_named_is_taken_whether_it_fits_or_not(memory: str, gpu: Gpu) -> None:
    gpu(0.5)
    assert decide(settings(memory=memory), WORK).memory == memory


def test_tiles_that_are_asked_for_are_small_ones(gpu: Gpu) -> None:
    gpu(80)
    assert decide(settings(vae_tiling=True), WORK).tiling == Tiling(288, 64, 288)
    cpu = PlacementSettings(device="cpu", vae_tiling=True)
    assert decide(cpu, WORK).tiling == Tiling(288, 64, 288)
    assert decide(cpu, replace(WORK, width=64, height=64)).tiling is None


def test_what_began_stays_where_it_is_left_open(gpu: Gpu) -> None:
    gpu(80)
    begun = {"compile": False, "attention": "auto", "vae_dtype": "float32", "vae_tiling": True}
    old = decide(settings(), WORK, begun)
    assert (old.compile, old.attention, old.vae_dtype, old.tiling) == (False, None, torch.float32, Tiling())
    now = decide(settings(), WORK, {**begun, "vae_tiling": "2x2", "compile": True, "vae_dtype": "bfloat16"})
    assert (now.compile, now.vae_dtype, now.tiling) == (True, torch.bfloat16, Tiling(288, 64, 288))
    named = decide(settings(compile=False, vae_dtype="float32", vae_tiling=False), WORK, {**begun, "vae_tiling": "2x2"})
    assert (named.compile, named.vae_dtype, named.tiling) == (False, torch.float32, None)


@pytest.mark.parametrize(
    ("capability", "chosen"),
    [((9, 0), "_native_flash"), ((10, 0), "_native_cudnn"), ((8, 9), "_native_flash"), ((7, 5), "_native_efficient")],
)
def test_attention_by_what_the_gpu_has(capability: tuple[int, int], chosen: str, gpu: Gpu) -> None:
    flash = capability >= (8, 0)
    gpu(80, capability, lambda name, *_: name != "_native_flash" or flash)
    assert decide(settings(), WORK).attention == chosen


def test_heads_that_a_kernel_does_not_take(gpu: Gpu) -> None:
    """Backends are tried with the heads of the released network; another one's may have another width."""

    def runs(name: str, device: Any, dtype: Any = None, keys: int = 16, width: int = 64) -> bool:
        return name == "native" or width % 8 == 0

    gpu(runs=runs)
    decided = decide(settings(), WORK)
    assert [fitting_attention("_native_flash", decided, width) for width in (128, 32, 12)] == [
        "_native_flash",
        "_native_flash",
        "native",
    ]
    asked = decide(settings(attention="_native_flash"), WORK)
    with pytest.raises(DeviceError, match="takes no heads of 12 numbers in bfloat16"):
        fitting_attention("_native_flash", asked, 12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_is_whole_on_a_gpu(dtype: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's default is to round what convolutions multiply to TF32's ten bits; the speech encoder is always float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    gpu()
    decide(settings(dtype=dtype), WORK)
    assert not torch.backends.cudnn.allow_tf32


def test_the_plain_kernel_is_never_taken_in_silence(gpu: Gpu) -> None:
    gpu(80, runs=lambda *_: False)
    with pytest.warns(UserWarning, match="no fused kernel runs"):
        assert decide(settings(), WORK).attention == "native"


def test_compiled_is_what_is_long_enough_and_can_be(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu()
    assert decide(settings(), WORK).compile
    assert not decide(settings(), replace(WORK, passes=COMPILE_FROM_PASSES - 1)).compile
    assert decide(settings(compile=True), replace(WORK, passes=1)).compile
    assert not decide(settings(memory="sequential"), WORK).compile
    assert not decide(PlacementSettings(device="cpu"), WORK).compile
    monkeypatch.setattr(P, "can_compile", lambda: False)
    assert not decide(settings(), WORK).compile
    gpu(0.5)
    assert decide(settings(compile=True), WORK).memory == "group", "single layers can't be compiled"


@pytest.mark.parametrize(("capability", "kind"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_dtype_of_the_vae(capability: tuple[int, int], kind: str, gpu: Gpu) -> None:
    gpu(80, capability)
    assert decide(settings(), WORK).vae_dtype == getattr(torch, kind)
    assert decide(PlacementSettings(device="cpu"), WORK).vae_dtype == torch.float32
    if kind == "float32":
        with pytest.raises(DeviceError, match="emulates it"):
            decide(settings(vae_dtype="bfloat16"), WORK)


def test_float8_products_need_a_gpu_that_has_them(gpu: Gpu) -> None:
    both = {"weights_dtype": "float8", "matmul_dtype": "float8"}
    gpu(80, (8, 9))
    assert decide(settings(**both), WORK).float8_matmul
    gpu(80, (8, 6))
    with pytest.raises(DeviceError, match=r"expected a GPU of compute capability 8\.9"):
        decide(settings(**both), WORK)
    with pytest.raises(UsageError, match="got weights_dtype same"):
        decide(settings(matmul_dtype="float8"), WORK)


FULL = Placement(torch.device("cuda"), torch.bfloat16, "full", False, None, False, torch.bfloat16, beside=False)


def steps(stage: Any, begin: Placement = FULL, **chosen: Any) -> list[tuple[str, str | None]]:
    """Return every step down until nothing is left."""
    found: list[tuple[str, str | None]] = []
    now: Placement | None = begin
    while (now := step_down(now, settings(**chosen), WORK, stage)) is not None:
        found.append((now.memory, None if now.tiling is None else now.tiling.name(512, 512)))
        assert len(found) < 40
    return found


def test_while_decoding_first_the_transformer_leaves_then_come_tiles() -> None:
    down = steps("decoding")
    assert down[0] == ("model", None) and down[1][0] == "model" and down[1][1] is not None
    modes = [memory for memory, _ in down]
    assert modes == sorted(modes, key=MODES.index), "only then do blocks leave"
    pixels = {each.name(512, 512): each.pixels(512, 512) for each in tilings(512, 512)}
    sizes = [pixels[name or ""] for _, name in down[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert [memory for memory, _ in steps("decoding", vae_tiling=False)] == ["model", "group"]
    assert all(tiles is None for _, tiles in steps("decoding", vae_tiling=False))


def test_first_of_all_decoding_takes_turns_with_passes(gpu: Gpu) -> None:
    gpu(80)
    roomy = decide(settings(), WORK)
    assert roomy.beside
    gpu(needed("full"))
    assert not decide(settings(), WORK).beside, "both at once would need more"
    for stage in ("sampling", "decoding"):
        after = step_down(roomy, settings(), WORK, stage)
        assert after is not None and (after.memory, after.beside) == ("full", False)
    trial = step_down(roomy, settings(), WORK, "trial")
    assert trial is not None and trial.memory == "model", "nothing was beside it"


def test_while_sampling_blocks_then_layers_leave() -> None:
    assert [memory for memory, _ in steps("sampling")] == ["group", "sequential"]
    assert [memory for memory, _ in steps("sampling", compile=True)] == ["group"]
    tiled = replace(FULL, tiling=tilings(512, 512)[2])
    assert {tiles for _, tiles in steps("sampling", tiled)} == {"2x2"}


def test_every_step_needs_less_than_the_one_before() -> None:
    for stage in ("conditions", "sampling", "decoding"):
        before = FULL
        while (after := step_down(before, settings(), WORK, stage)) is not None:
            need = [estimate_of(WORK, BFLOAT16, each.memory, each.tiling) for each in (before, after)]
            was, now = ({"sampling": e.sampling, "decoding": e.decode, "conditions": e.conditions}[stage] for e in need)
            assert now < was
            before = after


def test_nothing_smaller_is_left_at_the_end() -> None:
    last = choose(WORK, BFLOAT16, 0)
    end = replace(FULL, memory=last.memory, tiling=last.tiling)
    assert step_down(end, settings(), WORK, "sampling") is None
    assert step_down(end, settings(), WORK, "decoding") is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors …"), True),  # pinned memory
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_recognised_in_every_library_s_words(error: Exception, full: bool) -> None:
    assert is_full(error) == full
    try:
        with during("decoding"), during("sampling"):
            raise error
    except type(error) as caught:
        assert stage_of(caught) == "sampling"
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = error
    assert is_full(wrapped) == full


def test_the_innermost_stage_is_told_and_a_pass_where_nobody_says() -> None:
    assert stage_of(torch.OutOfMemoryError()) == "sampling"
    with pytest.raises(torch.OutOfMemoryError) as caught, during("conditions"), during("decoding"):
        raise torch.OutOfMemoryError
    assert stage_of(caught.value) == "decoding"
