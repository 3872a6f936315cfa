"""Tests with placement settings: networks compute the same in every mode and impossible settings are refused."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace

import pytest
import torch
from tiny import TINY, tiny_inputs, tiny_transformer, tiny_vae

from avatarctl.errors import DeviceError, UsageError
from avatarctl.networks import offload
from avatarctl.networks.attention import usable_attention
from avatarctl.networks.checkpoints import load_transformer, released_state
from avatarctl.networks.placement import Placement, decide
from avatarctl.networks.residency import MODES, OneOnDevice, residency_of
from avatarctl.settings.placement import PlacementSettings

CPU = torch.device("cpu")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")


def decided(**changes: object) -> Placement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decide(PlacementSettings(**{"device": "cpu", **changes}))


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """Let torch tell of two GPUs; no kernel is tried."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr("avatarctl.networks.attention._runs", lambda *_: True)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    with torch.no_grad():
        return tiny_transformer()(**tiny_inputs()).sample


@pytest.mark.parametrize("memory", ["full", "model", "group", "sequential"])
@pytest.mark.parametrize("attention", ["auto", "native", "_native_math"])
def test_every_mode_gives_the_same_numbers(memory: str, attention: str, expected: torch.Tensor) -> None:
    residency = MODES[memory](decided(memory=memory, attention=attention))  # on the CPU too: copies come and go
    transformer, vae = residency.place(tiny_transformer()), residency.place(tiny_vae())
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(residency.use(transformer)(**tiny_inputs()).sample, expected, atol=1e-5)
            residency.use(vae)


@pytest.mark.parametrize("memory", ["model", "group", "sequential"])
@pytest.mark.parametrize("float8", ["same", "float8"])
def test_what_visits_the_device_leaves_the_weights_in_memory_where_they_were(memory: str, float8: str) -> None:
    residency = MODES[memory](decided(memory=memory, weights_dtype=float8, dtype="bfloat16"))
    transformer = residency.place(tiny_transformer().to(torch.bfloat16))
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in transformer.parameters()]
    residency.use(transformer)
    with torch.no_grad():
        transformer(**tiny_inputs())
    residency.drop(transformer)
    after = list(transformer.parameters())
    assert all(place == tensor.data_ptr() and torch.equal(tensor, old) for (place, old), tensor in zip(before, after))


def test_a_block_that_fails_is_put_back_too() -> None:
    residency = MODES["group"](decided(memory="group"))
    transformer = residency.place(tiny_transformer())
    before = [tensor.data_ptr() for tensor in transformer.parameters()]
    with pytest.raises(ZeroDivisionError), torch.no_grad():
        handle = transformer.blocks[1].attn1.register_forward_pre_hook(lambda *_: 1 / 0)
        transformer(**tiny_inputs())
    handle.remove()
    assert [tensor.data_ptr() for tensor in transformer.parameters()] == before
    with torch.no_grad():
        expected = tiny_transformer()(**tiny_inputs()).sample
        assert torch.allclose(transformer(**tiny_inputs()).sample, expected, atol=1e-5)


def test_two_blocks_are_on_the_device_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    from avatarctl.networks import offload

    there: list[int] = []
    send = offload.BlockStream._send
    monkeypatch.setattr(offload.BlockStream, "_send", lambda self, place: (there.append(place), send(self, place))[1])
    residency = MODES["group"](decided(memory="group"))
    transformer = residency.place(tiny_transformer(TINY.with_(layers=4)))
    with torch.no_grad():
        transformer(**tiny_inputs())
        transformer(**tiny_inputs())
    assert there == [0, 1, 2, 3, 0, 1, 2, 3, 0], "each comes once, while the one before it computes"


@pytest.mark.parametrize("memory", ["full", "model", "group"])
@pytest.mark.parametrize("float8", ["same", "float8", "multiplied"])
def test_blocks_compile_in_every_mode_that_allows_it(memory: str, float8: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all combinations of compile, float8 and memory modes these work; sequential with compile is refused (below)."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compiled(*a, **{**k, "backend": "eager"}))
    plain = decided(memory=memory, weights_dtype="same" if float8 == "same" else "float8")
    plain = replace(plain, float8_matmul=float8 == "multiplied")  # the CPU can, but is refused: it is slower there
    eager, fast = MODES[memory](plain), MODES[memory](replace(plain, compile=True))
    one, other = eager.place(tiny_transformer()), fast.place(tiny_transformer())
    with torch.no_grad():
        expected = eager.use(one)(**tiny_inputs()).sample
        assert torch.allclose(fast.use(other)(**tiny_inputs()).sample, expected, atol=1e-5)


@pytest.mark.parametrize("attention", ["native", "_native_math"])
def test_a_named_attention_kernel_compiles_in_one_piece(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto names on a GPU, and compiles there, is a kernel of torch: each is chosen by a context inside the block."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compiled(*a, **{**k, "backend": "eager"}))
    plain = decided(attention=attention)
    one, other = residency_of(plain).place(tiny_transformer()), MODES["full"](replace(plain, compile=True))
    fast = other.place(tiny_transformer())
    with torch.no_grad():
        assert torch.allclose(fast(**tiny_inputs()).sample, one(**tiny_inputs()).sample, atol=1e-5)


def test_float8_storage_with_half_precision_compute(expected: torch.Tensor) -> None:
    residency = residency_of(decided(weights_dtype="float8", dtype="bfloat16"))
    model = load_transformer(released_state(tiny_transformer()), TINY, torch.bfloat16, residency.load_device)
    residency.place(model)
    bytes_ = sum(p.numel() * p.element_size() for p in model.blocks.parameters())
    assert bytes_ < 1.35 * sum(p.numel() for p in model.blocks.parameters())
    with torch.no_grad():
        error = (model(**tiny_inputs()).sample.float() - expected).norm() / expected.norm()
    assert 0 < error < 0.05


def test_attention_backend_of_one_network_is_not_everybodys() -> None:
    placed = residency_of(decided(attention="_native_math")).place(tiny_transformer())
    other = tiny_transformer()
    assert placed.blocks[0].attn1.processor._attention_backend == "_native_math"
    assert placed.vocal_projector.blocks[0].attn2.processor._attention_backend == "native"
    assert other.blocks[0].attn1.processor._attention_backend is None


def test_one_network_at_a_time() -> None:
    residency = OneOnDevice(decided(memory="model"))
    transformer, vae = residency.place(tiny_transformer()), residency.place(tiny_vae())
    assert residency.use(transformer) is transformer
    assert residency.use(vae) is vae
    residency.drop(vae)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_dtype_follows_what_the_gpu_really_has(
    capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, capability)
    assert decide(PlacementSettings(device="cuda:1")).dtype == getattr(torch, dtype)
    if dtype == "float16":
        with pytest.raises(DeviceError, match="emulates it"):
            decide(PlacementSettings(device="cuda:1", dtype="bfloat16"))


def test_dtypes_by_role() -> None:
    half = decided(dtype="bfloat16")
    assert half.dtype_of("transformer") == half.dtype_of("text encoder") == torch.bfloat16
    assert half.dtype_of("vae") == half.dtype_of("speech encoder") == torch.float32
    assert decided().dtype == torch.float32


def test_usable_attention_is_what_runs() -> None:
    usable = usable_attention(CPU)
    assert "native" in usable
    assert not any(name.endswith("_hub") for name in usable)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"memory": "sequential", "compile": True}, UsageError, "compile with memory mode sequential"),
        ({"weights_dtype": "float8", "dtype": "float16"}, UsageError, "float8 weights with float16"),
        ({"attention": "flsh"}, UsageError, "got 'flsh', expected auto or one of"),
        ({"attention": "flash_hub"}, DeviceError, "downloads its kernel"),
        ({"attention": "sage"}, DeviceError, "not usable on cpu"),
        ({"matmul_dtype": "float8"}, UsageError, "got weights_dtype same, expected float8"),
        ({"matmul_dtype": "float8", "weights_dtype": "float8"}, DeviceError, "the CPU doesn't multiply float8"),
    ],
)
def test_what_does_not_work_is_refused(settings: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        decided(**settings)
    assert caught.value.hint or error is UsageError


@pytest.mark.parametrize("float8", ["same", "float8", "multiplied"])
@pytest.mark.parametrize("memory", ["full", "model", "group", "sequential"])
def test_every_way_to_store_weights_runs_in_every_memory_mode(memory: str, float8: str, expected: torch.Tensor) -> None:
    plain = decided(memory=memory, weights_dtype="same" if float8 == "same" else "float8")
    residency = MODES[memory](replace(plain, float8_matmul=float8 == "multiplied"))
    with torch.no_grad():
        out = residency.use(residency.place(tiny_transformer()))(**tiny_inputs()).sample
    assert ((out - expected).norm() / expected.norm()) < {"same": 1e-5, "float8": 0.05, "multiplied": 0.1}[float8]


@NO_GPU
def test_missing_gpu_is_named() -> None:
    with pytest.raises(DeviceError, match="without a usable GPU") as caught:
        decided(device="cuda")
    assert "--device cpu" in caught.value.hint
    assert decided(device="auto").device == CPU


def test_useless_mode_warns() -> None:
    with pytest.warns(UserWarning, match="saves nothing on the CPU"):
        decide(PlacementSettings(device="cpu", memory="group"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory", ["full", "model", "group", "sequential"])
def test_gpu_gives_the_same_numbers(memory: str, expected: torch.Tensor) -> None:
    placement = decide(PlacementSettings(device="cuda", dtype="float32", memory=memory))
    residency = residency_of(placement)
    model = residency.use(residency.place(tiny_transformer()))
    inputs = {name: value.cuda() for name, value in tiny_inputs().items()}
    with torch.no_grad():
        assert torch.allclose(model(**inputs).sample.cpu(), expected, atol=1e-3)


def test_narrow_weights_compute_wide_on_the_cpu_and_stay_as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those of a network that was widened as a whole, to the bit."""
    monkeypatch.setattr("avatarctl.networks.residency.STREAMED_FROM_BYTES", 1)
    residency = residency_of(decided())
    state = {name: tensor.to(torch.bfloat16) for name, tensor in released_state(tiny_transformer()).items()}
    wide = residency.place(load_transformer(state, TINY, torch.float32))
    narrow = residency.place(load_transformer(state, TINY, None))
    layer = narrow.blocks[0].ffn.net[2]
    assert layer.weight.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(narrow(**tiny_inputs()).sample, wide(**tiny_inputs()).sample)
    assert layer.weight.dtype == torch.bfloat16


class Driver:
    """What CUDA's runtime answers when memory is locked: 0, or an error."""

    def __init__(self, answer: int) -> None:
        self.answer, self.locked = answer, []

    def cudaHostRegister(self, place: int, size: int, flags: int) -> int:
        self.locked += [place] if self.answer == 0 else []
        return self.answer

    def cudaHostUnregister(self, place: int) -> int:
        self.locked.remove(place)
        return 0


def test_locked_memory_is_released_with_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    blocks = tiny_transformer().blocks
    stream = offload.BlockStream(list(blocks), CPU)
    assert len(driver.locked) == len(blocks)
    del stream, blocks
    gc.collect()
    assert driver.locked == []


def test_memory_that_cannot_be_locked_is_said_once_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Driver(2))
    zeros, asked = torch.zeros, []

    def refused(*shape: int, **options: object) -> torch.Tensor:
        if options.get("device") == "cuda":
            asked.append(shape)
            raise RuntimeError("CUDA error: out of memory")  # the refusal once more
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", refused)
    offload._say_slow.cache_clear()
    with pytest.warns(UserWarning, match="locks too little of it") as told:
        offload.BlockStream(list(tiny_transformer().blocks), CPU)
    assert len(told) == 1 and len(asked) == TINY.layers
