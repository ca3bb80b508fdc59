"""Every figure's drawing: notebooks say what is shown, this says how."""

from grsd.plotting.shells import energy_map
from grsd.plotting.sliders import explore
from grsd.plotting.style import COLOURS, STYLE, decades, savefig, use_style
from grsd.plotting.verdicts import VERDICTS, verdict_rows

__all__ = ["COLOURS", "STYLE", "VERDICTS", "decades", "energy_map", "explore", "savefig", "use_style", "verdict_rows"]
