"""Frame the pictures of a batch before it begins, each once, and name the faces that are asked for and aren't there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avatarctl.batch.plan import Planned
from avatarctl.errors import UsageError
from avatarctl.render.crop import frame_apart, framing_in, require_face
from avatarctl.render.folder import RenderFolder


def framed(planned: Sequence[Planned]) -> tuple[Planned, ...]:
    """Return items with how their pictures are framed; a render that was begun is framed as its folder says."""
    fresh = [each for each in planned if each.item_state.state != "begun"]
    found = dict(zip((each.item.index for each in fresh), frame_apart([each.item.job for each in fresh]), strict=True))
    for each in planned:
        if each.item_state.state == "begun":
            found[each.item.index] = framing_in(RenderFolder(each.item.job.folder).manifest())
    return tuple(replace(each, framing=found[each.item.index]) for each in planned)


def missing_faces(planned: Sequence[Planned]) -> list[str]:
    """Return the mistakes of items that name a face which their picture hasn't got. Loads nothing where none names one."""
    mistakes = []
    for each in framed([each for each in planned if each.item.job.render.face is not None]):
        try:
            if each.framing is not None:
                require_face(each.framing, each.item.job)
        except UsageError as error:
            mistakes.append(f"{error.message} ({each.item.where})")
    return mistakes
