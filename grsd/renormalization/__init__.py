"""Block spin on shells: does a coarse local state predict the flux, and where do the couplings flow?"""

from grsd.renormalization.closure import Closure, closure
from grsd.renormalization.profile import coarser_profile, profile_flow

__all__ = ["Closure", "closure", "coarser_profile", "profile_flow"]
