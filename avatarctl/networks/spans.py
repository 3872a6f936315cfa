"""Say which audio tokens each latent frame of a window listens to; no torch."""

from __future__ import annotations

from functools import lru_cache

from avatarctl.errors import UsageError

# Tokens added to both sides of a latent frame's span.
CONTEXT_TOKENS = 4


@lru_cache(maxsize=64)
def frame_spans(audio_tokens: int, latent_frames: int) -> tuple[tuple[int, int], ...]:
    """Return the first and the last token (inclusive, may lie outside) that each latent frame of a window listens to.

    ``audio_tokens`` speech states cover the ``4 * (latent_frames - 1) + 1`` video frames of the window evenly. A span is
    centred on its latent frame, half a latent frame wide to both sides, and widened by ``CONTEXT_TOKENS``. Rounding is
    towards zero at each stage, as the released weights were trained with (StableAvatar, section 3.2 and released code).
    """
    if latent_frames < 2:
        raise UsageError(f"audio adapter: got a window of {latent_frames} latent frame, expected at least 2")
    per_frame = audio_tokens / (4 * (latent_frames - 1) + 1)
    half = int(per_frame * 4 / 2)
    centres = [int((per_frame * (4 * k - 3) + per_frame * (4 * k + 1)) / 2) - 1 for k in range(1, latent_frames)]
    # The first latent frame is a single picture: its span ends where that of the second begins and is as wide.
    first_stop = centres[0] - half
    spans = [(first_stop - 2 * half, first_stop)] + [(centre - half, centre + half) for centre in centres]
    return tuple((start - CONTEXT_TOKENS, stop + CONTEXT_TOKENS) for start, stop in spans)
