"""Block spin on shells: does a coarse state predict the flux, how far does it come, where do couplings flow?"""

from grsd.renormalization.closure import Closure, closure
from grsd.renormalization.profile import ProfileFlow, coarser_profile, profile_flow
from grsd.renormalization.reach import Reach, reach

__all__ = ["Closure", "ProfileFlow", "Reach", "closure", "coarser_profile", "profile_flow", "reach"]
