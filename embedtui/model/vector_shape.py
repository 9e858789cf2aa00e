"""What a vector goes through between its model and its column, alike for documents and for queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedtui.arrays import np

if TYPE_CHECKING:
    from embedtui.arrays import npt


@dataclass(frozen=True, slots=True)
class VectorShape:
    """The form in which a model's vectors are stored and searched with."""

    size: int
    """Numbers of a stored vector: its column's."""
    given: int
    """Numbers that the model gives."""
    normalise: bool = False
    """It is divided by its length."""

    @property
    def changes(self) -> bool:
        """Whether it makes anything else of a vector."""
        return self.normalise or self.given < self.size

    def __call__(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors (n, given) or (n, size) as they are stored, float32 (n, size); a zero vector stays one."""
        made = vectors
        if self.normalise:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                lengths = np.linalg.norm(made.astype(np.float64), axis=1, keepdims=True)
                made = np.where(np.isfinite(lengths) & (lengths > 0), made / lengths, made)
        if made.shape[1] < self.size:
            made = np.pad(made, ((0, 0), (0, self.size - made.shape[1])))
        return np.ascontiguousarray(made, dtype=np.float32)
