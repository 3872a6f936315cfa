"""Settings of how raw footage becomes clips to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from avatarctl.settings.base import Settings
from avatarctl.settings.encode import EncodeSettings, one_or_more
from avatarctl.settings.values import Size, check_device


class PrepareSettings(Settings):
    """What a clip must be to be kept, and how it is cut out."""

    min_s: Annotated[float, Field(gt=0)] = 3.0
    """Seconds that a face must stay in a shot at least."""
    min_piece_s: Annotated[float, Field(gt=0)] = 4.0
    """Seconds of a piece at least, where a face stays for several."""
    max_piece_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds of a piece at most; longer ones are split at pauses of the voice."""
    min_face_px: Annotated[int, Field(ge=8)] = 96
    """Height of the face in the footage at least, in pixels, forehead to chin."""
    min_presence: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Share of a piece's pictures in which the face is seen, at least."""
    max_identity: Annotated[float, Field(gt=0)] = 0.6
    """Distance to the track's person at most, in nine tenths of a piece's looks."""
    min_sharpness: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Sharpness of the face at least, 0 to 1: what a blur of its own takes away."""
    min_speech: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of a piece in which somebody speaks, at least."""
    min_sync: Annotated[float, Field(ge=-1, le=1)] = 0.3
    """Correlation of lips and voice at least."""
    min_margin: Annotated[float, Field(ge=-1, le=1)] = 0.1
    """How much it exceeds what shifted voices reach in 19 of 20 cases, at least."""
    max_shift_s: Annotated[float, Field(ge=0, le=0.4)] = 0.2
    """Seconds by which the sound is moved to the lips at most.

    More is out of sync.
    """
    least_shift_s: Annotated[float, Field(ge=0)] = 0.04
    """Seconds of an offset that is left alone: as small as what can be measured."""
    margin: Annotated[float, Field(ge=1)] = 1.9
    """Side of the crop, in sides of the head with hair and chin."""
    max_enlarge: Annotated[float, Field(ge=1)] = 1.0
    """How much larger than in the footage a crop may become.

    Beyond it more of the picture is shown, or the clip is smaller.
    """
    sizes: Annotated[tuple[Size, ...], BeforeValidator(one_or_more), Field(min_length=1)] = EncodeSettings.model_fields[
        "sizes"
    ].default
    """Sizes of clips; each goes to the one nearest to its footage's shape."""
    grow_masks: Annotated[int, Field(ge=0, le=64)] = 0
    """Pixels by which masks grow all around; the released code adds none."""
    speech: Literal["auto", "energy", "silero"] = "auto"
    """What hears speech: the energy of the voice's band, or silero-vad.

    auto: silero-vad where it is installed.
    """
    separate_vocals: bool = False
    """Take the voice out of the music; clips then hold the voice alone."""
    scan_px: Annotated[int, Field(ge=256, le=4096)] = 1920
    """Longer side at which footage is looked at, in pixels."""
    caption: str | None = None
    """Caption of clips whose footage has none beside it (null: the template)."""
    caption_command: str | None = None
    """Program that is called with the path of a clip and writes its caption."""

    @model_validator(mode="after")
    def _pieces(self) -> PrepareSettings:
        if self.max_piece_s < 2 * self.min_piece_s:
            raise ValueError(
                f"max_piece_s: got {self.max_piece_s:g}, expected twice min_piece_s ({self.min_piece_s:g}) or more"
            )
        return self

    def that_count(self) -> dict[str, Any]:
        """Return, as JSON holds them, the settings that clips depend on."""
        return self.model_dump(mode="json")


class PrepareJob(Settings):
    """Footage to be prepared: where it is, where the clips go, and how."""

    raw: tuple[Path, ...]
    """Folders of footage, or single videos."""
    clips: Path
    """The folder of clips."""
    settings: PrepareSettings = PrepareSettings()
    """What is kept, and how it is cut out."""
    weights: Path | None = None
    """Folder of the weights, for the separator (null: where `avatarctl fetch` puts them)."""
    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N."""
    force: bool = False
    """Discard the clips that are there and decide again."""
    dry_run: bool = False
    """Score everything, write no clips."""
