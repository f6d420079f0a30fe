"""Monte Carlo rotations about single bonds, so that conformers are visited by their weight and not by their barriers.

An attempt turns one side of a random single bond by a random angle and is accepted by Metropolis' rule. The turn keeps
volume in Cartesian space and is as likely as its inverse, so that between steps of MD it leaves the canonical
distribution as it is (hybrid of MD and MC; Frenkel and Smit, Understanding Molecular Simulation, ch. 3 and 14).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equimd.tasks.generate.sampling import Sampler, bonds

#: Bonds shorter than this part of the sum of covalent radii are double or conjugated, and are left as they are:
#: C=C 0.88, C=N 0.87, amide C-N 0.92, against phenol C-O 0.96 and C-C 1.0.
SINGLE = 0.94


@dataclass(frozen=True)
class Torsion:
    """A single bond: atoms ``moving`` turn about the axis from atom ``start`` to atom ``end``, which stay."""

    start: int
    end: int
    moving: tuple[int, ...]


def torsions(numbers: np.ndarray, positions: np.ndarray) -> list[Torsion]:
    """Bonds about which a turn gives another conformer; positions (n, 3) in Angstrom, near a minimum.

    Single bonds outside rings with atoms on both sides, each turning its smaller side. Left out is a side that the
    turn maps on itself, three atoms of one element (CH3, NH3, CF3), or that it does not move (a linear end).
    """
    from ase.data import covalent_radii

    pairs = bonds(numbers, positions)
    neighbours: dict[int, set[int]] = {k: set() for k in range(len(numbers))}
    for i, j in pairs.tolist():
        neighbours[i].add(j)
        neighbours[j].add(i)
    found = []
    for i, j in pairs.tolist():
        length = float(np.linalg.norm(positions[j] - positions[i]))
        if length < SINGLE * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]]):
            continue
        sides = _side(neighbours, i, j), _side(neighbours, j, i)
        if j in sides[0] or not all(_turns(numbers, positions, neighbours, *ends) for ends in ((i, j), (j, i))):
            continue
        start, end, side = (i, j, sides[1]) if len(sides[1]) <= len(sides[0]) else (j, i, sides[0])
        found.append(Torsion(start, end, tuple(sorted(side - {end}))))
    return found


def quartets(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(k, 4) atoms whose torsion angles tell conformers apart: of each of :func:`torsions` the bond, with the heaviest
    neighbour on each side."""
    pairs = bonds(numbers, positions)

    def outer(atom: int, other: int) -> int:
        near = [int(k) for pair in pairs if atom in pair for k in pair if k not in (atom, other)]
        return max(near, key=lambda k: (numbers[k], -k))

    found = [(outer(t.start, t.end), t.start, t.end, outer(t.end, t.start)) for t in torsions(numbers, positions)]
    return np.array(found, np.int64).reshape(-1, 4)


def _side(neighbours: dict[int, set[int]], atom: int, other: int) -> set[int]:
    """Atoms that hang on ``atom`` without the bond to ``other``; ``other`` among them where the bond is in a ring."""
    reached, waiting = {atom}, [k for k in neighbours[atom] if k != other]
    while waiting:
        k = waiting.pop()
        if k not in reached:
            reached.add(k)
            waiting += neighbours[k] - reached
    return reached


def _turns(numbers: np.ndarray, positions: np.ndarray, neighbours: dict[int, set[int]], atom: int, other: int) -> bool:
    """Whether turning the end ``atom`` of its bond to ``other`` can give another conformer."""
    hanging = sorted(neighbours[atom] - {other})
    terminal = all(len(neighbours[k]) == 1 for k in hanging)
    if len(hanging) == 3 and terminal and len(set(numbers[hanging].tolist())) == 1:
        return False
    axis = positions[atom] - positions[other]
    arms = positions[hanging] - positions[atom]
    off_axis = np.linalg.norm(np.cross(arms, axis / np.linalg.norm(axis)), axis=1)
    return bool((off_axis > 0.2).any())


def turned(positions: np.ndarray, torsion: Torsion, angle: float) -> np.ndarray:
    """Positions (n, 3) with the moving atoms turned by ``angle`` (rad) about the bond (Rodrigues' formula)."""
    origin = positions[torsion.end]
    axis = origin - positions[torsion.start]
    axis = axis / np.linalg.norm(axis)
    moving = list(torsion.moving)
    arms = positions[moving] - origin
    along = (arms @ axis)[:, None] * axis
    result = positions.copy()
    result[moving] = origin + along + np.cos(angle) * (arms - along) + np.sin(angle) * np.cross(axis, arms)
    return result


class TorsionMoves:
    """Attempts at turning single bonds of a molecule that MD moves, counted.

    Attributes:
        attempts: how many there were.
        accepted: how many of them were accepted.
    """

    def __init__(self, found: Sequence[Torsion], md: Sampler, every: int) -> None:
        """``every``: steps of MD between attempts, 0 for none."""
        self._found, self._md, self._every = found, md, every
        self._steps = self.attempts = self.accepted = 0

    def step(self) -> None:
        """To be called after each step of MD: an attempt where one is due."""
        self._steps += 1
        if self._every and self._steps % self._every == 0:
            self.attempt()

    def attempt(self) -> bool:
        """Turn a random bond by a random angle, if Metropolis' rule accepts it. Velocities stay as they are."""
        rng = self._md.rng
        torsion = self._found[int(rng.integers(len(self._found)))]
        done = self._md.metropolis(turned(self._md.positions, torsion, rng.uniform(-np.pi, np.pi)))
        self.attempts += 1
        self.accepted += done
        return done
