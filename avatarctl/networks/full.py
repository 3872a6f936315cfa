"""Recognise errors that mean that a device's memory is full, in whatever words its libraries say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Of CUDA, pinned memory included; cuBLAS and cuDNN when they get none for their handles and workspaces.
WORDS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
)
MAIN_MEMORY = "DefaultCPUAllocator"  # torch's words of the main memory


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or what it was raised from, says that memory is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in (*WORDS, MAIN_MEMORY)):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def is_main_memory(error: BaseException) -> bool:
    """Return whether it is the main memory that an error of :func:`is_full` is about."""
    return isinstance(error, MemoryError) or MAIN_MEMORY in str(error)


@contextmanager
def during(stage: str) -> Iterator[None]:
    """Let an error of full memory say in which stage it came: :func:`stage_of`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_full(error) and not hasattr(error, "stage"):
            error.stage = stage  # type: ignore[union-attr]
        raise


def stage_of(error: BaseException) -> str:
    """Return the stage in which memory was full; the passes of the transformer, where nobody said."""
    return str(getattr(error, "stage", "sampling"))
