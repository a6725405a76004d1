"""How a live model is, for those who watch it."""

from __future__ import annotations

from typing import Any

from fastforget.serving.editing import Editor
from fastforget.serving.follower import Follower
from fastforget.serving.replica import Replica

__all__ = ["health_of", "readiness_of"]


def health_of(replica: Replica, editor: Editor, follower: Follower) -> dict[str, Any]:
    """Say how a live model is. This takes a pass over the weights; it waits where an edit keeps predictions out.

    Args:
        replica: Its model.
        editor: Its edits.
        follower: Its thread.

    Returns:
        ``version``, ``fingerprint``, forgotten ``classes``, predictions ``inside``, whether an edit is ``editing``,
        whether what predicts is ``intact``: has the weights of the version, whether the model's own storage is
        ``written``, see `LiveModel`, what ``trouble`` there was when it followed its history last, and whether it
        ``follows``: else nobody carries out requests here.
    """
    version, intact = replica.state()
    return {
        "version": version.number,
        "fingerprint": version.fingerprint,
        "classes": list(version.classes),
        "inside": replica.gate.inside,
        "editing": editor.busy,
        "intact": intact,
        "written": not replica.unwritten,
        "trouble": follower.trouble,
        "follows": follower.running,
    }


def readiness_of(replica: Replica, follower: Follower) -> dict[str, Any]:
    """Say whether a live model carries out requests; waits for no prediction and does not look at the weights.

    Args:
        replica: Its model.
        follower: Its thread.

    Returns:
        ``version``, whether it ``follows`` its history, and whether it is ``ready``: it does, without trouble.
    """
    follows = follower.running
    return {"ready": follows and follower.trouble is None, "version": replica.version.number, "follows": follows}
