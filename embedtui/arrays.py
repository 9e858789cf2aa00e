"""numpy, loaded when it is first used: a command that only reads the state does not wait for it (0.1 s)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy import typing as npt
else:

    class _Numpy:
        """What is asked of numpy, kept so that it is looked up once."""

        def __getattr__(self, name: str) -> Any:
            import numpy

            found = getattr(numpy, name)
            setattr(self, name, found)
            return found

    np = _Numpy()
    npt = None  # annotations are never evaluated; an alias of one stands in quotes

__all__ = ["np", "npt"]
