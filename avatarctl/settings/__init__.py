"""Takes plain values, presets and flags, gives frozen, validated settings; no torch, no files of a user's."""

from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings

__all__ = ["PlacementSettings", "RenderJob", "RenderSettings"]
