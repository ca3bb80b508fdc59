"""Every figure's drawing: notebooks say what is shown, this says how."""

from grsd.plotting.shells import energy_map
from grsd.plotting.sliders import explore
from grsd.plotting.style import COLOURS, STYLE, decades, look, savefig, use_style
from grsd.plotting.verdicts import show_verdicts

__all__ = [
    "COLOURS",
    "STYLE",
    "decades",
    "energy_map",
    "explore",
    "look",
    "savefig",
    "show_verdicts",
    "use_style",
]
