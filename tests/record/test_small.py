"""Small tensors, which a snapshot takes together: what changes is stored, and each comes back."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.record.test_snapshots import Kept

COUNT, ELEMENTS = 40, 3000


def _restored(kept: Kept, boundary: str, count: int = COUNT) -> list[torch.Tensor]:
    live = {"w": [torch.zeros(ELEMENTS) for _ in range(count)]}
    kept.restore(boundary, held=live)
    return live["w"]


def test_of_many_small_tensors_only_those_that_change_are_stored_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    values = [torch.full((ELEMENTS,), float(number)) for number in range(COUNT)]
    expected = []
    for epoch in range(8):
        values[epoch].add_(0.5)
        expected.append([value.clone() for value in values])
        kept.take(f"epoch={epoch}/step@exit", held={"w": values})
        kept.take(f"epoch={epoch}@end", held={"w": values})
    kept.done()
    stored = {saved.boundary: saved.bytes for saved in kept.saved}
    whole = COUNT * ELEMENTS * 4
    assert stored["epoch=0/step@exit"] >= whole
    for epoch in range(1, 8):
        assert stored[f"epoch={epoch}/step@exit"] < whole / 4
        for boundary in (f"epoch={epoch}/step@exit", f"epoch={epoch}@end"):
            found = _restored(kept, boundary)
            assert all(map(torch.equal, found, expected[epoch]))


def test_small_tensors_that_return_to_what_they_were_are_not_stored_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    values = [torch.full((ELEMENTS,), float(number)) for number in range(COUNT)]
    for epoch in range(8):
        for number, value in enumerate(values):
            value.fill_(number + 1000 * (epoch % 2))
        kept.take(f"epoch={epoch}@end", held={"w": values})
    kept.done()
    stored = [saved.bytes for saved in kept.saved]
    assert min(stored[:2]) >= COUNT * ELEMENTS * 4
    assert max(stored[2:]) < COUNT * ELEMENTS
    for epoch in range(8):
        found = _restored(kept, f"epoch={epoch}@end")
        assert [v[0].item() for v in found] == [n + 1000 * (epoch % 2) for n in range(COUNT)]


def test_tensors_whose_memory_moves_come_back_whether_or_not_they_share_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    expected = {}
    for epoch in range(9):
        values = [torch.full((ELEMENTS,), float(10 * epoch + number)) for number in range(4)]
        if epoch % 3 == 2:  # two of them overlap this time
            memory = torch.arange(2.0 * ELEMENTS) + epoch
            values[1], values[3] = memory[:ELEMENTS], memory[100 : 100 + ELEMENTS]
        boundary = f"epoch={epoch}@end"
        expected[boundary] = [value.clone() for value in values]
        kept.take(boundary, held={"w": values})
    kept.done()
    for boundary, values in expected.items():
        assert all(map(torch.equal, _restored(kept, boundary, 4), values))
        shares = len(kept.manifest(boundary).blocks) == 3
        assert shares == (int(boundary[6]) % 3 == 2)
