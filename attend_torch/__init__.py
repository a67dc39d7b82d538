"""The reference `Attend`, in torch: written to be read as a specification."""

from attend_torch.functional import attend
from attend_torch.module import Attend

__all__ = ["Attend", "attend"]
