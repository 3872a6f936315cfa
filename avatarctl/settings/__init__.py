"""Settings: frozen, validated values from presets, environment and flags; no torch."""

from avatarctl.settings.placement import PlacementSettings
from avatarctl.settings.render import RenderJob, RenderSettings

__all__ = ["PlacementSettings", "RenderJob", "RenderSettings"]
