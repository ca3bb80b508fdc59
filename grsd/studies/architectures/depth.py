"""The growth share of deeper ResNets, by Adam and cross-entropy, with skips and without."""

from __future__ import annotations

from grsd.evidence import Measurement
from grsd.studies.architectures.cells import cell
from grsd.studies.architectures.trained import Adam, Pair, share_contrast

DEEP = 8


def way(skips: bool, depth: int) -> Adam:
    """ResNets of a depth on digits."""
    return Adam(cell("resnet", skips, "digits", depth))


MEASUREMENTS = {
    f"skips-growth-share-adam-resnet-{DEEP}-digits": Measurement(
        Pair(way(True, DEEP), way(False, DEEP)), share_contrast
    )
}
