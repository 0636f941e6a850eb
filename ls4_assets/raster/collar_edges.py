"""Fit one edge of a photograph from profiles across it.

A profile runs along a row or a column, from the collar into the photograph. The photograph begins where the profile rises above
a share of its brightness further inside: the ringing of a JPEG at the edge stays below that, and a speck is too short. The edge
is the line (or the slight bow) that most of these points agree on; points that begin later are dark photograph, and do not move
the edge inwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 8
"""How far the pixels of a collar may differ from its color: the rim of a JPEG, the noise of a scanner."""

MAX_BOW = 0.01
"""How far an edge may bend from a straight line, as a share of its length: a polynomial has rectified the photograph."""

_PROFILES = 600
_MARGIN_SHARE = 0.03
"""The ends of an edge are rounded or clipped, and are not sampled."""
_RISE = 0.4
_MAX_RISE = 40
_RUN_PX = 5
_INLIER_PX = 1.5
_MIN_INLIER_SHARES = {1: 0.5, 2: 0.75}
"""Share of the profiles in which the photograph begins on the edge, for a straight line and for a bow."""
_MIN_INLIER_SHARE = min(_MIN_INLIER_SHARES.values())
_MIN_GAIN_OF_BOW = 0.02
_MAX_ERROR_OF_BOW = 0.8
"""A bow must explain clearly more profiles than a line, or leave a clearly smaller error."""
_SLACK_PX = 0.6
"""The centers of the outermost pixels are half a pixel inside the edge on average. The rest is the error of the fit."""
_MAX_CUT_SHARE = 0.05
"""Share of the profiles in which the photograph may begin outside the edge."""
_TRIALS = 400

Floats = NDArray[np.float64]
Profiles = NDArray[np.int16]


@dataclass(frozen=True)
class Candidate:
    """Roughly a side of the photograph: `position` is the column (steep: one for each row) or the row (one for each column).

    along: the rows (or columns) of the profiles. position: where the side roughly crosses them.
    inward: 1 when the photograph has the larger positions, else -1. margin: length of a profile on each side.
    """

    is_steep: bool
    inward: int
    along: NDArray[np.int64]
    position: NDArray[np.int64]
    margin: int

    @classmethod
    def between(cls, start: Floats, end: Floats, center: Floats, *, margin: int) -> Self:
        """The side from `start` to `end`, as (column, row) in pixels, of a photograph around `center`."""
        is_steep = bool(abs(end[1] - start[1]) >= abs(end[0] - start[0]))
        axis = 1 if is_steep else 0
        low, high = sorted((start, end), key=lambda point: float(point[axis]))
        extent = high[axis] - low[axis]
        first, last = low[axis] + _MARGIN_SHARE * extent, high[axis] - _MARGIN_SHARE * extent
        along = np.unique(np.linspace(first, last, min(_PROFILES, int(extent) + 1)).round().astype(np.int64))
        slope = (high[1 - axis] - low[1 - axis]) / extent
        position = low[1 - axis] + slope * (along - low[axis])
        inward = 1 if center[1 - axis] > low[1 - axis] + slope * (center[axis] - low[axis]) else -1
        return cls(is_steep, inward, along, position.round().astype(np.int64), margin)

    def sample_pixels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows and columns of all profiles, shape (profiles, pixels), from the outside to the inside."""
        across = self.position[:, None] + self.inward * np.arange(-self.margin, self.margin + 1)
        along = np.broadcast_to(self.along[:, None], across.shape)
        return (along, across) if self.is_steep else (across, along)


@dataclass(frozen=True)
class Edge:
    """An edge: the polynomial `coefficients` gives its position (see Candidate) at each of `along`, straight beyond both ends.

    support: length of the parts where the photograph begins on the edge, in pixels.
    """

    is_steep: bool
    inward: int
    along: NDArray[np.int64]
    coefficients: Floats
    support: float

    @property
    def degrees(self) -> float:
        """Direction from the edge into the photograph."""
        along, across = np.diff(self._ends())[:, 0]
        normal = np.array([1.0, -across / along]) * self.inward
        x, y = normal if self.is_steep else normal[::-1]
        return float(np.degrees(np.arctan2(y, x)))

    @property
    def is_aligned(self) -> bool:
        """Whether the edge runs along one column or row of pixels."""
        positions = self._evaluate(self.along)
        return bool(positions.max() - positions.min() <= 1)

    def _ends(self) -> Floats:
        ends = self.along[[0, -1]]
        return np.stack([ends.astype(float), self._evaluate(ends)])

    def _evaluate(self, along: NDArray[np.int64]) -> Floats:
        nearest = np.clip(along, self.along[0], self.along[-1])
        slope = np.polyval(np.polyder(self.coefficients), nearest)
        positions: Floats = np.polyval(self.coefficients, nearest) + slope * (along - nearest)
        return positions

    def inside(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True where the photograph is, shape (rows, columns)."""
        positions = self._evaluate(rows if self.is_steep else columns) - self.inward * _SLACK_PX
        # Whole numbers of 32 bits: comparing a large chunk takes a third of the time of floats.
        outermost = (np.ceil(positions) if self.inward > 0 else np.floor(positions)).astype(np.int32)
        if self.is_steep:
            across, limits = columns.astype(np.int32)[None, :], outermost[:, None]
        else:
            across, limits = rows.astype(np.int32)[:, None], outermost[None, :]
        inside: NDArray[np.bool_] = across >= limits if self.inward > 0 else across <= limits
        return inside

    def points_outside(self, distance: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and columns along the edge, `distance` pixels outside it."""
        slope = np.polyval(np.polyder(self.coefficients), self.along)
        across = self._evaluate(self.along) - self.inward * distance * np.hypot(1, slope)
        positions = across.round().astype(np.int64)
        return (self.along, positions) if self.is_steep else (positions, self.along)


def read_profiles(
    candidates: list[Candidate],
    color: NDArray[np.int16],
    width: int,
    height: int,
    strips: Iterable[tuple[int, NDArray[np.uint8]]],
) -> list[Profiles]:
    """Return how far the pixels of all profiles differ from `color`, shape (profiles, pixels) for each candidate.

    It is -1 outside the image.
    """
    profiles, samples = [], []
    for candidate in candidates:
        rows, columns = candidate.sample_pixels()
        profiles.append(np.full(rows.shape, -1, dtype=np.int16))
        samples.append((np.where((columns >= 0) & (columns < width) & (rows < height), rows, -1), columns))
    for top, pixels in strips:
        for profile, (rows, columns) in zip(profiles, samples, strict=True):
            here = (rows >= top) & (rows < top + pixels.shape[1])
            values = pixels[:, rows[here] - top, columns[here]]
            profile[here] = np.abs(values - color[:, None]).max(axis=0)
    return profiles


def fit_edge(candidate: Candidate, profiles: Profiles) -> Edge | None:
    """Return the edge that most profiles agree on; None when there is none."""
    found, offsets = _find_rises(profiles, candidate.margin)
    along = candidate.along[found].astype(float)
    if len(along) < _MIN_INLIER_SHARE * len(profiles):
        return None
    across = (candidate.position[found] + candidate.inward * offsets[found]).astype(float)
    line = _agree_on_line(along, across)
    best: tuple[float, float, Floats] | None = None
    for degree, minimum in _MIN_INLIER_SHARES.items():
        coefficients = _refine(along, across, line, degree)
        inward = (across - np.polyval(coefficients, along)) * candidate.inward
        near = inward[np.abs(inward) <= _INLIER_PX]
        share, error = len(near) / len(profiles), float(near.std())
        cut_share = (inward < -_INLIER_PX).sum() / len(profiles)
        if share < minimum or cut_share > _MAX_CUT_SHARE or _bow(coefficients, along) > MAX_BOW:
            continue
        if best is None or share > best[0] + _MIN_GAIN_OF_BOW or (share >= best[0] and error < _MAX_ERROR_OF_BOW * best[1]):
            best = share, error, coefficients
    if best is None:
        return None
    share, _, coefficients = best
    ends = np.polyval(coefficients, candidate.along[[0, -1]])
    length = float(np.hypot(np.ptp(candidate.along), np.ptp(ends)))
    return Edge(candidate.is_steep, candidate.inward, candidate.along, coefficients, share * length)


def _bow(coefficients: Floats, along: Floats) -> float:
    """Return how far a polynomial bends from a straight line, as a share of its length."""
    return float(abs(coefficients[0]) * np.ptp(along) / 4) if len(coefficients) == 3 else 0.0


def _find_rises(profiles: Profiles, margin: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return in which profiles the photograph begins, and at which offset from the candidate's position, inwards.

    Where the border of the image cuts the photograph, it does not begin.
    """
    level = np.median(profiles[:, margin + _RUN_PX :], axis=1)
    above = profiles > np.clip(_RISE * level, TOLERANCE, _MAX_RISE)[:, None]
    padded = np.pad(above, ((0, 0), (0, _RUN_PX - 1)), mode="edge")
    runs = np.lib.stride_tricks.sliding_window_view(padded, _RUN_PX, axis=1).sum(axis=2)
    begins = above & (runs > _RUN_PX // 2)
    first = begins.argmax(axis=1)
    before = np.take_along_axis(profiles, np.maximum(first - 1, 0)[:, None], axis=1)[:, 0]
    return begins.any(axis=1) & (before >= 0), first - margin


def _agree_on_line(along: Floats, across: Floats) -> Floats:
    """Return the line through two of the points that most points agree on (RANSAC with a fixed seed)."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, len(along), (_TRIALS, 2))
    pairs = pairs[np.abs(along[pairs[:, 0]] - along[pairs[:, 1]]) > 0.1 * np.ptp(along)]
    run = along[pairs[:, 1]] - along[pairs[:, 0]]
    slopes = (across[pairs[:, 1]] - across[pairs[:, 0]]) / run
    intercepts = across[pairs[:, 0]] - slopes * along[pairs[:, 0]]
    residuals = np.abs(across - slopes[:, None] * along - intercepts[:, None])
    best = int(np.count_nonzero(residuals <= _INLIER_PX, axis=1).argmax())
    return np.array([slopes[best], intercepts[best]])


def _refine(along: Floats, across: Floats, line: Floats, degree: int) -> Floats:
    """Fit a polynomial to the points near the line, then to those near that fit."""
    coefficients, reach = line, 2 * _INLIER_PX if degree == 1 else 1 + 0.01 * float(np.ptp(along))
    for _ in range(4):
        near = np.abs(across - np.polyval(coefficients, along)) <= reach
        if np.count_nonzero(near) <= degree:
            break
        coefficients, reach = np.polyfit(along, across, degree, w=near.astype(float)), max(_INLIER_PX, reach / 2)
    return coefficients
