"""Whether a model keeps the contract of :mod:`equimd.model.interface`: run any model through it before it is used.

::

    from equimd.model.conformance import check_model

    check_model(MyModel(...))

What equimd computes from a model, down to calibrated uncertainties and thresholds, is right only if all of this holds.
Physics is looked at in float64, on a copy; the model's own precision is then compared with that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import DENSE_MAX_ATOMS, Batch
from equimd.data.frames import Frames
from equimd.errors import ConformanceError, ModelError
from equimd.model.interface import CompilableModel, Evaluation, Model, VirialModel, gives_virial

SIZES = (5, 1, 7, 3)  # atoms of the structures that are made up
STEP = 1e-4  # Angstrom, of finite differences
#: Relative to the largest value compared: rounding; differences over STEP; float32 against float64.
EXACT, DIFFERENCE, SINGLE = 1e-8, 1e-4, 5e-4


@dataclass(frozen=True)
class _Trial:
    """A model, its float64 copy, and structures for both."""

    model: Model
    exact: Model
    frames: Frames

    def batch(self, frames: Frames | None = None, neighbors: str = "auto", model: Model | None = None) -> Batch:
        """Of the float64 copy unless another model is given."""
        used = self.exact if model is None else model
        given = self.frames if frames is None else frames
        return Batch.from_frames(given, used.cutoff, dtype=used.dtype, device=used.device, neighbors=neighbors)

    def evaluate(self, frames: Frames | None = None, neighbors: str = "auto") -> tuple[Evaluation, Batch]:
        """By the float64 copy, energies without their references."""
        batch = self.batch(frames, neighbors)
        out = self.exact.evaluate(batch)
        return {**out, "energy": out["energy"] - self.exact.reference_energy(batch)}, batch


def check_model(model: Model, frames: Frames | None = None) -> tuple[str, ...]:
    """Run a model through the contract.

    Args:
        frames: small structures of elements it knows, at least two, of different sizes; None: random ones.

    Returns:
        The names of the checks it passed, all of them.

    Raises:
        ConformanceError: what is broken first, with the figures; ``where`` is the name of the check.
    """
    _facts(model)
    trial = _Trial(model, model.converted(torch.float64), made_up(model) if frames is None else frames)
    for name, check in CHECKS.items():
        try:
            check(trial)
        except ConformanceError as error:
            raise ConformanceError(error.what, where=f"{type(model).__name__}: {name}", hint=error.hint) from None
    return ("facts", *CHECKS)


def made_up(model: Model) -> Frames:
    """Random molecules of the model's elements, atoms 0.9 Angstrom or more apart, about 12 Angstrom^3 an atom."""
    rng, blocks = np.random.default_rng(0), []
    for n in SIZES:
        points: list[np.ndarray] = []
        while len(points) < n:
            point = rng.uniform(-0.5, 0.5, 3) * (12.0 * n) ** (1 / 3)
            if all(np.linalg.norm(point - other) > 0.9 for other in points):
                points.append(point)
        blocks.append(Frames.build(rng.choice(model.elements or (1, 6, 8), (1, n)), np.array([points])))
    return Frames.concatenate(blocks)


def _hold(condition: bool, what: str, hint: str | None = None) -> None:
    if not condition:
        raise ConformanceError(what, hint=hint)


def _same(actual: Tensor, expected: Tensor, what: str, tolerance: float = EXACT, scale: float = 0.0) -> None:
    """Raise unless equal, relative to the largest expected value or ``scale``, whichever is larger."""
    _hold(actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    if not expected.numel():
        return
    wrong = float((actual.double() - expected.double()).abs().max())
    size = max(float(expected.abs().max()), scale)
    _hold(wrong <= tolerance * size, f"{what}: off by {wrong:.2g}, where values go up to {size:.2g}")


# -- the checks, in an order in which the first to fail is the one to look at ----------------------------------------


def _facts(model: Model) -> None:
    """What it says of itself fits together."""
    try:
        _hold(all(0 < z < 119 for z in model.elements), f"elements {model.elements}: atomic numbers are 1 to 118")
        _hold(model.cutoff > 0, f"a cutoff of {model.cutoff}")
        _hold(model.dtype in (torch.float32, torch.float64), f"precision {model.dtype}: float32 or float64")
        p, q, width = len(model.energy_weights), len(model.force_weights), model.num_pooled
        _hold(0 < p <= width, f"{p} weights of the energy on {width} features")
        _hold(not model.conservative or p == q, f"{q} weights of the forces, {p} of the energy they are derived from")
        _hold(not model.energy_weights.requires_grad, "energy_weights are not detached")
        _hold(model.pair_channels > 0, f"pair_channels {model.pair_channels}")
        _hold(bool(model.description), "it has no description")
        name = model.identity()
        _hold(len(name) == 64 and name == model.identity(), f"identity '{name}' is no sha256, or not always the same")
    except (AttributeError, ConformanceError) as error:
        what = error.what if isinstance(error, ConformanceError) else f"is no model: {error}"
        raise ConformanceError(what, where=f"{type(model).__name__}: facts") from None


def _shapes(trial: _Trial) -> None:
    model = trial.model
    for neighbors in ("dense", "torch"):
        batch = trial.batch(neighbors=neighbors, model=model)
        out, n, count = model.evaluate(batch), len(batch.positions), batch.num_structures
        features = ((count, model.num_pooled), model.dtype)
        wanted = {"energy": ((count,), torch.float64), "forces": ((n, 3), model.dtype), "features": features}
        for key, (shape, dtype) in wanted.items():
            value: Tensor = out[key]  # type: ignore[literal-required]
            told = f"{key} {tuple(value.shape)} {value.dtype} in the {neighbors} layout"
            _hold(tuple(value.shape) == shape and value.dtype == dtype, f"{told}, not {shape} {dtype}")
            _hold(not value.requires_grad, f"{key} still has its graph", "detach what evaluate returns")
            none = key == "forces" and not model.has_forces
            _hold(none or bool(torch.isfinite(value).all()), f"{key} is not finite")
        if model.has_forces:
            _hold(not out["forces"][~batch.real].any(), "forces on padded slots (atomic number 0) are not zero")


def _leaves_alone(trial: _Trial) -> None:
    """Neither the batch nor torch's settings change, and switching gradients off changes nothing."""
    batch = trial.batch(model=trial.model)
    before = {f.name: v.clone() for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)}
    default, enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    out = trial.model.evaluate(batch)
    if trial.model.has_forces:
        trial.model.rows(batch)
    _hold(torch.get_default_dtype() == default and torch.is_grad_enabled() == enabled, "torch's settings have changed")
    for name, value in before.items():
        _hold(torch.equal(value, getattr(batch, name)), f"{name} of the batch were written to")
    _hold(not batch.positions.requires_grad, "positions of the batch now require gradients")
    with torch.no_grad():
        again = trial.model.evaluate(batch)
    _same(again["energy"], out["energy"], "energies where gradients are off", EXACT)
    if trial.model.has_forces:
        _same(again["forces"], out["forces"], "forces where gradients are off", 10 * torch.finfo(trial.model.dtype).eps)


def _refusals(trial: _Trial) -> None:
    """Elements that it never saw are refused by every call."""
    model = trial.model
    unseen = next((z for z in (1, 6, 8, 92, 118) if z not in model.elements), None) if model.elements else None
    if unseen is None:
        return
    frames = Frames.build(np.array([[model.elements[0], unseen]]), np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.2]]]))
    batch = trial.batch(frames, model=model)
    calls: list[Callable[[Batch], object]] = [model.check, model.evaluate, model.features, model.rows]
    for call in calls:
        try:
            call(batch)
        except ModelError:
            continue
        what = f"{getattr(call, '__name__', call)} answers for element {unseen}, which the model does not know"
        raise ConformanceError(what, hint="raise ModelError for what is not among its elements")


def _precision(trial: _Trial) -> None:
    """float64 is float64 all through, float32 is close to it, and reference energies keep their digits."""
    exact, frames = trial.exact, trial.frames
    _hold(exact.dtype == torch.float64, f"converted to float64 it is {exact.dtype}")
    out, batch = trial.evaluate()
    scale = float((out["features"].abs()[:, : len(exact.energy_weights)] @ exact.energy_weights.abs()).max())
    away = 1e-6 * np.random.default_rng(1).normal(size=frames.positions.shape) * (frames.numbers > 0)[..., None]
    ahead, behind = (trial.evaluate(replace(frames, positions=frames.positions + x))[0] for x in (away, -away))
    bend = float((ahead["features"] - 2 * out["features"] + behind["features"]).abs().max())
    what = f"features are no smooth function of positions 1e-6 Angstrom apart: they jump by {bend:.2g}"
    _hold(bend <= EXACT * float(out["features"].abs().max()), what, "compute in the model's precision all through")
    own = trial.model.evaluate(trial.batch(model=trial.model))
    reference = exact.reference_energy(batch)
    _same(own["energy"] - reference, out["energy"], "energies against the float64 copy", SINGLE, scale)
    _same(own["features"], out["features"], "features against the float64 copy", SINGLE)
    if trial.model.has_forces:
        _same(own["forces"], out["forces"], "forces against the float64 copy", SINGLE)
    single = trial.model.converted(torch.float32)
    rounded = single.reference_energy(trial.batch(model=single))
    kept = rounded.dtype == torch.float64 and torch.equal(rounded, reference)
    hint = "keep them in float64: float32 has steps of 2e-4 eV at 4000 eV"
    _hold(kept, "reference energies change with the precision of the model", hint)


def _linear(trial: _Trial) -> None:
    """Energies and forces are rows times weights, which is what the posterior is about."""
    exact, (out, batch) = trial.exact, trial.evaluate()
    weights = exact.energy_weights
    _same(out["features"][:, : len(weights)] @ weights, out["energy"], "energies as features times energy_weights")
    _same(exact.features(batch), out["features"], "features() beside those of evaluate()")
    if exact.has_forces:
        rows, q = exact.rows(batch), len(exact.force_weights)
        _same(rows.energy, out["features"], "energy rows beside the features")
        _same(rows.forces[..., :q] @ exact.force_weights, out["forces"], "forces as rows times force_weights", 1e-7)


def _derivatives(trial: _Trial) -> None:
    """Forces and force rows are minus the derivatives of energies and features, by central differences."""
    exact, frames = trial.exact, trial.frames
    if not (exact.has_forces and exact.conservative):
        return
    out, batch = trial.evaluate(neighbors="dense" if frames.numbers.shape[1] <= DENSE_MAX_ATOMS else "auto")
    rows, away = exact.rows(batch), torch.zeros_like(batch.positions)
    generator = torch.Generator().manual_seed(0)
    away[batch.real] = torch.randn(int(batch.real.sum()), 3, dtype=torch.float64, generator=generator).to(away)
    ahead, behind = (exact.evaluate(replace(batch, positions=batch.positions + sign * STEP * away)) for sign in (1, -1))
    work = torch.zeros_like(out["energy"]).index_add(0, batch.batch, (out["forces"] * away).sum(-1))
    slope = -(ahead["energy"] - behind["energy"]) / (2 * STEP)
    _same(work, slope, "forces beside -dE/dx by finite differences", DIFFERENCE)
    by_row = torch.einsum("nxp,nx->np", rows.forces, away)
    by_row = torch.zeros_like(out["features"]).index_add(0, batch.batch, by_row)
    slope = -(ahead["features"] - behind["features"]) / (2 * STEP)
    _same(by_row, slope, "force rows beside -dfeatures/dx by finite differences", DIFFERENCE)


def _columns(trial: _Trial) -> None:
    """Fewer columns, directions, and chunks of any size are the same rows."""
    exact, batch = trial.exact, trial.batch()
    if not exact.has_forces:
        return
    whole, q = exact.rows(batch).forces, len(exact.force_weights)
    _same(exact.rows(batch, width=q, chunk=3).forces[..., :q], whole[..., :q], "rows of the first features")
    for count in (q, whole.shape[-1]):
        directions = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(whole)
        found = exact.rows(batch, directions=directions, chunk=1).forces
        _same(found, whole[..., :count] @ directions, "rows in directions of the weights")


def _symmetry(trial: _Trial) -> None:
    """Rotations, reflections and translations turn forces and force rows along, and leave all else."""
    out, batch = trial.evaluate()
    q, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    frames = trial.frames
    for turn in (q, -q):
        turned = frames.positions @ turn.T + np.array([0.3, -0.2, 0.5])
        moved, other = trial.evaluate(replace(frames, positions=turned * (frames.numbers > 0)[..., None]))
        matrix = torch.from_numpy(turn).to(batch.positions)
        _same(moved["energy"], out["energy"], "energies of turned structures", 1e-7)
        _same(moved["features"], out["features"], "features of turned structures", 1e-7)
        if trial.exact.has_forces:
            _same(moved["forces"], out["forces"] @ matrix.T, "forces of turned structures beside turned forces", 1e-7)
            rows, expected = trial.exact.rows(other).forces, trial.exact.rows(batch).forces
            expected = torch.einsum("xy,nyp->nxp", matrix, expected)
            _same(rows, expected, "force rows of turned structures beside turned rows", 1e-7)


def _permutation(trial: _Trial) -> None:
    """The order of atoms does not matter."""
    out, batch = trial.evaluate()
    order = np.arange(trial.frames.numbers.shape[1])[::-1]
    index = order[np.argsort(trial.frames.numbers[:, order] == 0, axis=1, kind="stable")]  # padding at the end
    numbers, positions = trial.frames.numbers, trial.frames.positions
    numbers, positions = np.take_along_axis(numbers, index, 1), np.take_along_axis(positions, index[..., None], 1)
    frames = replace(trial.frames, numbers=numbers, positions=positions)
    found, other = trial.evaluate(frames)
    _same(found["energy"], out["energy"], "energies with the atoms in another order", 1e-7)
    _same(found["features"], out["features"], "features with the atoms in another order", 1e-7)
    if trial.exact.has_forces:
        for mine, theirs in zip(other.unpad(found["forces"]), batch.unpad(out["forces"]), strict=True):
            _same(mine, theirs.flip(0), "forces with the atoms in another order", 1e-7)


def _batching(trial: _Trial) -> None:
    """A structure's answer does not depend on its company, on padding, or on the layout."""
    out, batch = trial.evaluate()
    forces = batch.unpad(out["forces"])
    for neighbors in ("dense", "torch"):
        for k in range(len(trial.frames)):
            alone, single = trial.evaluate(trial.frames.take(np.array([k])), neighbors)
            what = f"of a structure alone ({neighbors} layout) beside those in a batch"
            _same(alone["energy"], out["energy"][k : k + 1], f"energies {what}", 1e-7)
            _same(alone["features"], out["features"][k : k + 1], f"features {what}", 1e-7)
            if trial.exact.has_forces:
                scale = float(out["forces"].abs().max())
                _same(single.unpad(alone["forces"])[0], forces[k], f"forces {what}", 1e-7, scale)


def _size(trial: _Trial) -> None:
    """Two molecules out of reach of each other have the sum of their energies and of their features."""
    first, second = (trial.frames.take(np.array([k])) for k in (0, len(trial.frames) - 1))
    apart = [f.positions[0, : n[0]] for f in (first, second) for n in (f.n_atoms,)]
    numbers = np.concatenate([f.numbers[0, : f.n_atoms[0]] for f in (first, second)])
    far = 20 * trial.exact.cutoff + np.abs(apart[0]).max() + np.abs(apart[1]).max()
    both = Frames.build(numbers[None], np.concatenate([apart[0], apart[1] + [far, 0.0, 0.0]])[None])
    together = trial.evaluate(both, "torch")[0]
    single = [trial.evaluate(f, "torch")[0] for f in (first, second)]
    for key in ("energy", "features"):
        total = single[0][key] + single[1][key]  # type: ignore[literal-required]
        _same(together[key], total, f"{key} of two molecules far apart beside their sum", 1e-7)  # type: ignore[literal-required]


def _periodic(trial: _Trial) -> None:
    """In a box larger than its reach a molecule is as in the open, wherever the box is cut."""
    frame = trial.frames.take(np.array([0]))
    n, cutoff = int(frame.n_atoms[0]), trial.exact.cutoff
    x = frame.positions[:, :n] - frame.positions[:, :n].min(1, keepdims=True)
    length = float(x.max()) + 2.1 * cutoff
    cell, pbc = np.eye(3)[None] * length, np.ones((1, 3), bool)
    expected, _ = trial.evaluate(Frames.build(frame.numbers[:, :n], x), "torch")
    for shift in (0.0, 0.5 * float(x.max()) + 1e-3):
        found, _ = trial.evaluate(Frames.build(frame.numbers[:, :n], (x - shift) % length, cell=cell, pbc=pbc))
        _same(found["energy"], expected["energy"], "the energy in a large periodic box beside that in the open", 1e-7)
        if trial.exact.has_forces:
            _same(found["forces"], expected["forces"], "forces in a large periodic box beside those in the open", 1e-7)


def _virial(trial: _Trial) -> None:
    """The virial is minus the energy's derivative by strain, in a skewed cell smaller than the cutoff."""
    exact, frame = trial.exact, trial.frames.take(np.array([0]))
    if not (isinstance(exact, VirialModel) and gives_virial(exact)):
        return
    cell = np.diag(np.ptp(frame.positions[0], axis=0) + 1.5) + np.triu(np.full((3, 3), 0.3), 1)

    def stretched(strain: np.ndarray) -> Frames:
        matrix, pbc = np.eye(3) + strain, np.ones((1, 3), bool)
        return Frames.build(frame.numbers, frame.positions @ matrix, cell=cell[None] @ matrix, pbc=pbc)

    virial = exact.evaluate_with_virial(trial.batch(stretched(np.zeros((3, 3)))))["virial"][0]
    strain = np.array([[0.3, 0.5, -0.2], [0.5, -0.4, 0.6], [-0.2, 0.6, 0.8]])
    up, down = (trial.evaluate(stretched(half * strain))[0]["energy"] for half in (0.5 * STEP, -0.5 * STEP))
    found = (virial.cpu() * torch.from_numpy(strain)).sum()[None]
    _same(found, (down - up).cpu() / STEP, "the virial beside differences", DIFFERENCE, float(virial.abs().max()))


def _smooth(trial: _Trial) -> None:
    """Nothing jumps when an atom crosses the cutoff."""
    z = trial.frames.numbers[0, :1]
    distances = np.array([0.5, 1.0 - 1e-7, 1.0 + 1e-7]) * trial.exact.cutoff
    positions = np.zeros((3, 2, 3))
    positions[:, 1, 0] = distances
    energy = trial.evaluate(Frames.build(np.repeat(z, 2)[None].repeat(3, 0), positions), "torch")[0]["energy"]
    jump, size = float((energy[1] - energy[2]).abs()), float((energy[0] - energy[2]).abs())
    _hold(jump <= 1e-4 * max(size, 1e-6), f"the energy of a pair jumps by {jump:.2g} eV at the cutoff")


def _charge_spin(trial: _Trial) -> None:
    """A model that says it does not see charge and multiplicity does not."""
    if trial.exact.sees_charge_spin:
        return
    out, batch = trial.evaluate()
    other = replace(batch, charge=torch.ones_like(batch.charge), spin=torch.full_like(batch.spin, 2))
    try:
        found = trial.exact.evaluate(other)["energy"] - trial.exact.reference_energy(other)
    except ModelError:
        return  # it knows that it was not trained on that
    _same(found, out["energy"], "energies at another charge, which the model says it does not see")


def _graph(trial: _Trial) -> None:
    """What would be compiled is the model."""
    exact, batch = trial.exact, trial.batch(neighbors="dense")
    if not isinstance(exact, CompilableModel) or not batch.num_slots:
        return
    positions = batch.positions.clone().requires_grad_(True)
    out = exact.graph_outputs(exact.graph_tensors(), positions, batch, native=False)
    expected = exact.evaluate(batch)
    _same(out.energy.detach() + exact.reference_energy(batch), expected["energy"], "energies of graph_outputs")
    _same(out.features.detach(), expected["features"], "features of graph_outputs")
    if out.direct_forces is not None:
        _same(out.direct_forces.detach(), expected["forces"], "forces of graph_outputs")


CHECKS: dict[str, Callable[[_Trial], None]] = {
    "shapes": _shapes,
    "inputs left alone": _leaves_alone,
    "unseen elements": _refusals,
    "precision": _precision,
    "batching": _batching,
    "permutation": _permutation,
    "symmetry": _symmetry,
    "derivatives": _derivatives,
    "linear last layer": _linear,
    "columns of rows": _columns,
    "size": _size,
    "periodic": _periodic,
    "virial": _virial,
    "cutoff": _smooth,
    "charge and spin": _charge_spin,
    "compiled graph": _graph,
}
