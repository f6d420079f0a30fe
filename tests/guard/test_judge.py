"""What the guard refuses, what it lets pass, and what it keeps of flagged frames."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from equimd.data.system import System
from equimd.errors import ConfigError, DataError
from equimd.guard.flags import SuspectRecorder, write_suspects
from equimd.guard.judge import Decision, Event, Judge, physical_decision
from equimd.guard.limits import Limits, components
from tests.potentials import methanol, water


def judge(limits: Limits, positions: torch.Tensor, energy: float = 0.0, forces: float = 0.0) -> Decision:
    return physical_decision(
        limits, positions, torch.full((len(positions),), energy).double(), torch.full_like(positions, forces)
    )


def test_bonds_of_the_reference() -> None:
    limits = Limits.from_reference(methanol().system, methanol().reference)
    assert {tuple(b) for b in limits.bonds.tolist()} == {(0, 1), (1, 2), (0, 3), (0, 4), (0, 5)}
    assert limits.bond_lengths[0] == pytest.approx(1.42)
    assert set(limits.molecules) == {0}


def test_thermal_frames_pass() -> None:
    m = methanol()
    limits = Limits.from_reference(m.system, m.reference)
    noise = torch.randn(200, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert judge(limits, m.reference + 0.06 * noise) == Decision()


def test_one_replica_is_halted_and_the_others_pass() -> None:
    m = methanol()
    limits = Limits.from_reference(m.system, m.reference)
    x = m.reference.expand(4, -1, -1).clone()
    x[1, 2] = x[1, 1] + torch.tensor([0.2, 0.1, 0.0])  # H falls into O
    x[3, 5] = x[3, 0] + torch.tensor([0.0, 0.0, -3.0])  # H leaves
    fused, apart = judge(limits, x).events
    assert (fused.row, fused.action, fused.code, fused.atoms) == (1, "halt", "fused", (1, 2))
    assert "0.22 Angstrom" in fused.reason
    assert (apart.row, apart.code, apart.atoms) == (3, "apart", (5,))
    assert apart.score > apart.threshold
    decision = judge(limits, x)
    assert decision.accept(4).tolist() == [True, False, True, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["positions", "energy", "forces"])
def test_numbers_that_are_not_finite(where: str, value: float) -> None:
    m = water()
    limits = Limits.from_reference(m.system, m.reference)
    x = m.reference.expand(3, -1, -1).clone()
    energy, forces = torch.zeros(3).double(), torch.zeros_like(x)
    {"positions": x[1, 2], "energy": energy[1:2], "forces": forces[1, 2]}[where][0] = value
    (event,) = physical_decision(limits, x, energy, forces).events
    assert (event.row, event.code) == (1, "not-finite")
    assert event.atoms == (() if where == "energy" else (2,))


def test_opposite_infinities_do_not_hide() -> None:
    m = water()
    limits = Limits.from_reference(m.system, m.reference)
    x = m.reference.expand(2, -1, -1).clone()
    forces = torch.zeros_like(x)
    forces[0, 0, 0], forces[1, 0, 0] = math.inf, -math.inf
    decision = physical_decision(limits, x, torch.zeros(2).double(), forces)
    assert [e.row for e in decision.events] == [0, 1]


def test_huge_finite_positions_are_apart() -> None:
    m = water()
    x = m.reference.expand(1, -1, -1).clone()
    x[0, 1] = 1e200
    (event,) = judge(Limits.from_reference(m.system, m.reference), x).events
    assert event.code == "apart"


def test_reactions_are_not_refused() -> None:
    """A proton that moves from one oxygen to the other breaks a bond, and the molecule stays whole."""
    system = System.build([8, 1, 8])
    reference = torch.tensor([[0.0, 0.0, 0.0], [0.97, 0.0, 0.0], [2.6, 0.0, 0.0]], dtype=torch.float64)
    limits = Limits.from_reference(system, reference)
    moved = reference.clone()
    moved[1, 0], moved[1, 1] = 3.1, 0.8  # 3.2 from its old oxygen, 0.94 from the new one
    assert judge(limits, moved[None]) == Decision()


def test_molecules_of_a_cluster_may_part() -> None:
    one = water()
    system = System.build([8, 1, 1, 8, 1, 1])
    reference = torch.cat([one.reference, one.reference + torch.tensor([2.9, 0.0, 0.0])])
    limits = Limits.from_reference(system, reference)
    far = torch.cat([one.reference, one.reference + torch.tensor([9.0, 0.0, 0.0])])[None]
    assert judge(limits, far) == Decision()
    far[0, 4] += torch.tensor([0.0, 3.0, 0.0])
    assert judge(limits, far).events[0].atoms == (4,)


def test_periodic_images_count() -> None:
    system = System.build([8, 1, 1], cell=5.0 * np.eye(3), pbc=[True] * 3)
    inside = water().reference + 2.5
    limits = Limits.from_reference(system, inside)
    wrapped = inside.clone()
    wrapped[1] += torch.tensor([0.0, -5.0, 5.0])  # the same place, another image
    assert judge(limits, wrapped[None]) == Decision()
    on_top = inside.clone()
    on_top[1] = on_top[0] + torch.tensor([5.0, 0.1, 0.0])
    assert judge(limits, on_top[None]).events[0].code == "fused"
    assert judge(Limits.from_reference(water().system, inside), wrapped[None]).events[0].code == "apart"


def test_overlapping_start_is_refused() -> None:
    with pytest.raises(DataError, match=r"atoms 0 and 1 overlap: they are 0\.10"):
        Limits.from_reference(System.build([6, 6]), torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]]).double())


def test_a_start_that_overlaps_with_its_image_is_refused() -> None:
    system = System.build([13], cell=np.diag([0.4, 4.0, 0.0]), pbc=(True, True, False))  # in nm, say
    with pytest.raises(DataError, match=r"atom 0 overlaps with its own image: they are 0\.40"):
        Limits.from_reference(system, torch.zeros(1, 3).double())


def test_components() -> None:
    labels = components(6, np.array([[0, 1], [4, 5], [1, 4]]))
    assert labels[0] == labels[1] == labels[4] == labels[5]
    assert len({labels[0], labels[2], labels[3]}) == 3


def largest_x(x: torch.Tensor, extras: object) -> tuple[torch.Tensor, torch.Tensor]:
    """A score of frames and of atoms."""
    return x[..., 0].amax(-1), x[..., 0]


def judge_of(threshold: float, action: str = "flag", limits: Limits | None = None) -> Judge:
    return Judge(limits, largest_x, threshold, action, name="force sigma", unit="eV/A")


def decide(judge: Judge, x: torch.Tensor) -> Decision:
    return judge(x, torch.zeros(len(x)), torch.zeros_like(x))


def test_score() -> None:
    x = torch.zeros(3, 4, 3).double()
    x[1, 2, 0], x[2, 0, 0] = 0.3, math.nan
    decision = decide(judge_of(0.2), x)
    assert [(e.row, e.action, e.code, e.atoms) for e in decision.events] == [
        (1, "flag", "force sigma", (2,)),
        (2, "flag", "force sigma", (0,)),
    ]
    assert decision.events[0].reason == "force sigma 0.3 above 0.2 eV/A"
    assert decision.accept(3) is None
    assert decide(judge_of(0.2, "halt"), x).accept(3).tolist() == [True, False, False]
    assert decide(judge_of(math.inf), x[:2]).events == ()
    with pytest.raises(ConfigError):
        judge_of(math.nan)
    with pytest.raises(ConfigError):
        judge_of(0.1, "warn")


def test_two_thresholds() -> None:
    x = torch.zeros(5, 4, 3).double()
    x[1, 2, 0], x[2, 0, 0], x[3, 1, 0], x[4, 3, 0] = 0.3, math.nan, 0.7, 0.2
    for action in ("halt", "flag"):
        judge = Judge(None, largest_x, 0.5, action, flag=0.2)
        told = [(e.row, e.action, e.threshold, e.atoms) for e in decide(judge, x).events]
        assert told == [(1, "flag", 0.2, (2,)), (2, action, 0.5, (0,)), (3, action, 0.5, (1,))]
    for threshold in (0.2, 0.1, None):
        with pytest.raises(ConfigError, match="not below the threshold"):
            Judge(None, largest_x, threshold, flag=0.2)


def test_physical_checks_come_before_the_score() -> None:
    m = methanol()
    judge = judge_of(0.3, limits=Limits.from_reference(m.system, m.reference))
    x = m.reference.expand(3, -1, -1).clone()  # its largest x is 0.88
    x[0, 2] = x[0, 1]
    x[1, :, 0] -= 1.0
    events = decide(judge, x).events
    assert [(e.row, e.code) for e in events] == [(0, "fused"), (2, "force sigma")]
    assert decide(Judge(), x) == Decision()


def test_values_of_ones_own() -> None:
    """NumPy arrays or torch tensors, of A frames or of one."""
    m = methanol()
    judge = judge_of(0.3, "halt", Limits.from_reference(m.system, m.reference))
    x = m.reference.expand(2, -1, -1).numpy().copy()
    x[1, :, 0] -= 1.0  # now the largest x is below 0.3
    energy, forces, before = np.zeros(2), np.zeros_like(x), x.copy()
    assert judge(x, energy, forces).events == judge(*map(torch.from_numpy, (x, energy, forces))).events
    assert [e.row for e in judge(x, energy, forces).halts] == [0]
    assert np.array_equal(x, before)
    for row, halted in enumerate((1, 0)):
        for own in (np.array, torch.tensor):
            found = judge(own(x[row]), 0.0, own(forces[row]))
            assert len(found.halts) == halted and found.scores is not None and len(found.scores) == 1
    (event,) = judge(x[1], np.nan, forces[1]).events
    assert event.code == "not-finite"
    for wrong in (
        (x[:, 1:], energy, forces[:, 1:]),
        (x, energy[:1], forces),
        (x, energy, forces[0]),
        (x[0, 0], 0.0, 0.0),
    ):
        with pytest.raises(DataError, match="frames of 6 atoms"):
            judge(*wrong)
    with pytest.raises(DataError, match="among features"):
        judge(x, energy, forces, {"features": np.zeros((3, 5))})


def flag(row: int, score: float) -> Event:
    return Event(row, "flag", "sigma", "sigma high", score, 1.0, (1,))


def test_one_frame_for_each_event() -> None:
    recorder = SuspectRecorder(gap=10, length=50)
    scores = {5: 2.0, 6: 3.0, 7: 2.5, 14: 2.9, 24: 1.5, 25: 1.2}  # 5..14 is one event, 24 is 10 steps later: another
    for step in range(40):
        x = torch.full((2, 3, 3), float(step)).double()
        events = (flag(1, scores[step]),) if step in scores else ()
        recorder.update(Decision(events, None, torch.full((2, 3), 0.5)), x, step, (4, 8))
    first, second = recorder.frames()
    assert (first.replica, first.step, first.start, first.last, first.count, first.score) == (8, 6, 5, 14, 4, 3.0)
    assert float(first.positions[0, 0]) == 6.0
    assert (second.step, second.start, second.count) == (24, 24, 2)
    assert recorder.flagged_steps == 6
    assert recorder.n_flagged == 2
    assert recorder.halts == []


def test_a_run_that_is_always_above_gives_one_frame_a_stretch() -> None:
    recorder = SuspectRecorder(gap=10, length=50)
    x = torch.zeros(1, 3, 3).double()
    for step in range(200):
        recorder.update(Decision((flag(0, 1.0 + step % 7),)), x, step, (0,))
    assert [f.start for f in recorder.frames()] == [0, 50, 100, 150]
    assert recorder.flagged_steps == 200


def test_recorder_goes_on_from_its_dump_and_writes_what_it_has(tmp_path: Path) -> None:
    def feed(recorder: SuspectRecorder, steps: range) -> None:
        for step in steps:
            x = torch.full((1, 3, 3), step / 3.0).double() + water().reference
            events = [flag(0, 2.0 + math.sin(step))] if step % 4 else []
            if step == 17:
                events = [Event(0, "halt", "not-finite", "not finite", math.nan, math.nan, (0,))]
            per_atom = torch.rand(1, 3) if step % 2 else None
            recorder.update(Decision(tuple(events), None, per_atom), x, step, (0,))

    torch.manual_seed(0)
    whole = SuspectRecorder(gap=3, length=7)
    feed(whole, range(30))
    torch.manual_seed(0)
    begun, resumed = SuspectRecorder(gap=3, length=7), SuspectRecorder(gap=3, length=7)
    feed(begun, range(19))
    tensors, meta = begun.dump()
    resumed.load(tensors, json.loads(json.dumps(meta)))
    feed(resumed, range(19, 30))
    for a, b in zip(whole.frames(), resumed.frames(), strict=True):
        for name, value in vars(a).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(9.0), getattr(b, name).nan_to_num(9.0))
            else:
                assert repr(value) == repr(getattr(b, name)), name
    assert len(whole.halts) == 1
    assert resumed.flagged_steps == whole.flagged_steps

    from ase.io import read

    write_suspects(tmp_path / "flagged.extxyz", water().system, whole.frames())
    frames = read(tmp_path / "flagged.extxyz", ":")
    assert len(frames) == len(whole.frames())
    assert frames[0].info["step"] == whole.frames()[0].step
    assert frames[0].arrays["responsible"].tolist() == [0, 1, 0]
    np.testing.assert_allclose(frames[0].positions, whole.frames()[0].positions, atol=1e-7)
