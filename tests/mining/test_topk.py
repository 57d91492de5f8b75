"""The search of one unit against whole numbers, with every type of screen; vectors made to fool the screen among them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fgray.mining import screen, topk
from fgray.mining.screen import Corpus, Shape
from fgray.mining.topk import top_k
from tests.mining.oracle import TORCH, as_kept, check, exact_scores, unit_rows

TIERS = {"bf16": ["bf16", "fp32"], "fp16": ["fp16", "fp32"], "fp32": ["fp32"], "float64": []}
"""The types of the screens, the fastest first; after the last comes the float64 product. A GPU uses fp16, CPUs bf16 or fp32."""
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Tiers:
    """Chooses the screens of a search and counts the queries that come to each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.seen = monkeypatch, Counter[str]()
        names, seen = {dtype: name for name, dtype in TORCH.items()}, self.seen

        class Counted(screen.Screen):
            def __init__(self, queries: torch.Tensor, corpus: Corpus, k: int, dtype: torch.dtype) -> None:
                seen[names[dtype]] += len(queries)
                super().__init__(queries, corpus, k, dtype)

        def scan(queries: torch.Tensor, vectors: torch.Tensor, k: int, original=topk._scan_exactly):
            seen["float64"] += len(queries)
            return original(queries, vectors, k)

        monkeypatch.setattr(topk, "Screen", Counted)
        monkeypatch.setattr(topk, "_scan_exactly", scan)

    def use(self, first: str) -> None:
        self.monkeypatch.setattr(topk, "screen_types", lambda device: [TORCH[name] for name in TIERS[first]])


@pytest.fixture
def tiers(monkeypatch: pytest.MonkeyPatch) -> Tiers:
    return Tiers(monkeypatch)


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest, tiers: Tiers) -> str:
    tiers.use(request.param)
    return request.param


class TestAgainstWholeNumbers:
    @pytest.mark.parametrize("dtype", TORCH)
    @pytest.mark.parametrize(
        ("queries", "corpus", "dim", "k"),
        [
            (1, 1, 1, 1),
            (1, 7, 3, 2),
            (3, 7, 5, 20),  # k > corpus
            (2, 8, 1, 8),  # one dimension: every score is tied
            (31, 301, 17, 1),
            (5, 4097, 33, 10),  # one row more than a tile has
            (257, 1003, 16, 50),  # one query more than a tile has
            (3, 5003, 8, 2048),
        ],
    )
    def test_random(self, tiers: Tiers, tier: str, dtype: str, queries: int, corpus: int, dim: int, k: int) -> None:
        asked, searched = as_kept(unit_rows(queries, dim, 1), dtype), as_kept(unit_rows(corpus, dim, 2), dtype)
        check(top_k(asked, Corpus(searched), k), asked, searched, k)
        assert tiers.seen == {tier: queries}, "no query needed the next tier"

    @pytest.mark.parametrize("dim", [768, 1153])
    def test_long_vectors(self, tier: str, dim: int) -> None:
        asked, searched = as_kept(unit_rows(7, dim, 1), "fp16"), as_kept(unit_rows(600, dim, 2), "fp16")
        check(top_k(asked, Corpus(searched), 13), asked, searched, 13)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", TORCH)
    def test_as_the_device_does_it(self, device: str, dtype: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        asked, searched = as_kept(unit_rows(70, 65, 1), dtype), as_kept(unit_rows(9001, 65, 2), dtype)
        searched[5000:8000] = searched[0]  # some queries overflow
        asked[3] = searched[0]
        check(top_k(asked.to(device), Corpus(searched.to(device)), 30), asked, searched, 30)

    def test_rows_that_become_readable_piece_by_piece(self, tier: str) -> None:
        asked, searched = as_kept(unit_rows(9, 12, 1), "fp32"), as_kept(unit_rows(5000, 12, 2), "fp32")
        held = torch.full_like(searched, torch.nan)

        def ready():
            for start, stop in [(0, 1), (1, 14), (14, 4500), (4500, 5000)]:
                held[start:stop] = searched[start:stop]
                yield start, stop

        if tier == "float64":
            list(ready())
        check(top_k(asked, Corpus(held), 25, None if tier == "float64" else ready()), asked, searched, 25)

    def test_one_hot_vectors_and_opposites(self, tier: str) -> None:
        eye = torch.eye(9, dtype=torch.float16)
        searched = torch.cat([eye, -eye, eye])
        check(top_k(-eye, Corpus(searched), 27), -eye, searched, 27)


class TestDuplicates:
    def test_ties_come_by_row(self, tier: str) -> None:
        searched = as_kept(np.repeat(unit_rows(40, 8, 2), 5, axis=0)[np.random.default_rng(0).permutation(200)], "bf16")
        asked = as_kept(unit_rows(20, 8, 1), "bf16")
        check(top_k(asked, Corpus(searched), 33), asked, searched, 33)

    @pytest.mark.parametrize("first", ["bf16", "fp16", "fp32"])
    def test_thousands_overflow_down_to_float64(self, tiers: Tiers, first: str) -> None:
        tiers.use(first)
        values = unit_rows(9000, 16, 2)
        values[np.random.default_rng(0).permutation(9000)[:6000]] = values[17]
        searched, asked = as_kept(values, "fp32"), as_kept(unit_rows(12, 16, 1), "fp32")
        asked[[4, 9]] = searched[17]
        check(top_k(asked, Corpus(searched), 40), asked, searched, 40)
        assert tiers.seen[first] == 12
        assert 2 <= tiers.seen["float64"] < 12, "the two that have 6,000 equal neighbours, and few others"

    @pytest.mark.parametrize("first", ["bf16", "fp16"])
    def test_crowded_scores_go_to_fp32(self, tiers: Tiers, first: str) -> None:
        tiers.use(first)
        asked = as_kept(unit_rows(6, 32, 1), "fp32")
        crowd = asked[2].numpy() + 0.01 * unit_rows(5000, 32, 3)  # scores within 5e-5
        searched = as_kept(np.concatenate([unit_rows(1000, 32, 2), crowd / np.linalg.norm(crowd, axis=1, keepdims=True)]), "fp32")
        check(top_k(asked, Corpus(searched), 10), asked, searched, 10)
        assert tiers.seen["fp32"] >= 1 and tiers.seen["float64"] == 0

    def test_crowded_scores_stay_exact_where_fp32_cannot_tell_them(self, tier: str) -> None:
        """Scores of one query differ by multiples of 2^-52; every fp32 number that could hold them is the same."""
        asked = torch.zeros(1, 40)
        asked[0, :2] = torch.tensor([0.75, 2.0**-26])
        searched = torch.zeros(700, 40)
        searched[:, 0] = 0.5
        searched[:, 1] = torch.from_numpy(np.random.default_rng(0).integers(-300, 300, 700)) * 2.0**-26
        check(top_k(asked, Corpus(searched), 650), asked, searched, 650)


class TestFoolTheScreen:
    """Vectors for which low precision puts the best row as far below the k-th as its bound allows."""

    def misordered(self, asked: torch.Tensor, searched: torch.Tensor, first: str, k: int) -> bool:
        """Return whether the k best in low precision lack the best row."""
        scores = asked.to(TORCH[first]) @ searched.to(TORCH[first]).T
        best = int(exact_scores(asked, searched)[0].argmax())
        return bool((scores[0] > scores[0, best]).sum() >= k)

    @pytest.mark.parametrize("decoys", [60, 250])
    @pytest.mark.parametrize("rounded_side", ["queries", "corpus"])
    @pytest.mark.parametrize(("first", "bits"), [("bf16", 8), ("fp16", 11)])
    def test_maximal_residuals(self, tiers: Tiers, first: str, bits: int, rounded_side: str, decoys: int) -> None:
        """Rounding takes half a spacing from every number, all in the direction of the other vector; scores are near zero."""
        tiers.use(first)
        below, above = (0.125 * (1 + 2.0**-bits + sign * 2.0**-20) for sign in (-1, 1))
        smaller = torch.tensor([below, -above] * 32 + [0.0])  # each number becomes smaller by half a spacing
        constant = torch.tensor([0.125] * 64 + [0.0])
        if rounded_side == "queries":
            asked, best, decoy = smaller[None].clone(), constant.clone(), -constant
        else:
            asked, best, decoy = constant[None].clone(), smaller.clone(), -smaller
        asked[0, 64], best[64] = 2.0**-7, 2.0**-8  # so little makes it the best
        searched = torch.cat([decoy.repeat(decoys // 2, 1), best[None], decoy.repeat(decoys - decoys // 2, 1)])
        check(top_k(asked, Corpus(searched), 10), asked, searched, 10)
        assert exact_scores(asked, searched)[0].argmax() == decoys // 2
        assert self.misordered(asked, searched, first, 10)
        scores = (asked.to(TORCH[first]) @ searched.to(TORCH[first]).T)[0].float()
        residuals = 2 * 8 * 0.125 * 2.0**-bits
        assert 0.9 * residuals < scores[0] - scores[decoys // 2] < residuals, "nearly as much as can be"

    @pytest.mark.parametrize(("first", "bits"), [("bf16", 8), ("fp16", 11)])
    def test_rounding_of_the_scores(self, tiers: Tiers, first: str, bits: int) -> None:
        """The best row's score lies just below the middle of two numbers of the screen's type, the others' just above."""
        tiers.use(first)
        spacing = 2.0 ** (1 - bits)  # at 1
        asked = torch.zeros(1, 8)
        asked[0, :5] = torch.tensor([0.5, 0.5, 2.0**-4 * (1 + spacing / 2 - 2.0**-20), 2.0**-4, 2.0**-4])
        searched = torch.zeros(101, 8)
        searched[:, 0], searched[:, 1], searched[:, 4] = 0.5, spacing / 4, spacing / 16  # 0.25 (1 + spacing / 2) and a little
        best = 50
        searched[best, 2], searched[best, 3], searched[best, 4] = 0.5, -0.5, -spacing / 8
        check(top_k(asked, Corpus(searched), 10), asked, searched, 10)
        assert exact_scores(asked, searched)[0].argmax() == best
        assert self.misordered(asked, searched, first, 10)
        scores = (asked.to(TORCH[first]) @ searched.to(TORCH[first]).T)[0].float()
        assert scores[0] - scores[best] == 0.25 * spacing, "one spacing apart in the screen"

    def test_cancellation(self, tier: str) -> None:
        """Large products cancel; what is left is less than the rounding of any partial sum in fp32."""
        draw = np.random.default_rng(3)
        half = unit_rows(1, 300, 5) * 0.7
        asked = as_kept(np.concatenate([half, -half], axis=1), "fp32")
        base = unit_rows(900, 300, 6) * 0.7
        noise = draw.integers(-3, 4, (900, 300)) * 2.0**-26
        searched = as_kept(np.concatenate([base, base + noise], axis=1), "fp32")
        scores = exact_scores(asked, searched)
        assert np.abs(scores).max() < 2**52 * 2e-6
        check(top_k(asked, Corpus(searched), 50), asked, searched, 50)

    def test_near_ties_across_tiles(self, monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
        """Rows around a few centres, in tiles of 128: floors rise while candidates are dropped, raised and given up."""
        monkeypatch.setitem(screen.SHAPES, "cpu", Shape(8, 128))
        monkeypatch.setattr(screen, "SLACK", 8)
        centres = unit_rows(5, 24, 1)
        draw = np.random.default_rng(2)
        values = centres[draw.integers(0, 5, 1500)] + draw.choice([1e-6, 1e-4, 1e-2, 1], (1500, 1)) * unit_rows(1500, 24, 3)
        searched = as_kept(values / np.linalg.norm(values, axis=1, keepdims=True), "fp32")
        searched[1000:1250] = searched[500:750]
        asked = as_kept(np.concatenate([centres, unit_rows(3, 24, 4)]), "fp32")
        for k in (1, 40):
            check(top_k(asked, Corpus(searched), k), asked, searched, k)

    def test_rounding_that_grows_with_later_tiles(self, monkeypatch: pytest.MonkeyPatch, tiers: Tiers) -> None:
        """The first tiles lose nothing to bf16; the best row comes later, loses much, and the floor must fall before it is looked at."""
        tiers.use("bf16")
        monkeypatch.setitem(screen.SHAPES, "cpu", Shape(4, 64))
        below, above = (0.125 * (1 + 2.0**-8 + sign * 2.0**-20) for sign in (-1, 1))
        asked = torch.full((1, 65), 0.125)
        searched = torch.tensor([-0.125] * 64 + [0.0]).repeat(330, 1)
        searched[:20] = torch.tensor([0.125, -0.125] * 32 + [0.0])
        searched[270] = torch.tensor([below, -above] * 32 + [2.0**-12])
        check(top_k(asked, Corpus(searched), 10), asked, searched, 10)
        assert exact_scores(asked, searched)[0].argmax() == 270
        assert self.misordered(asked, searched, "bf16", 10)

    def test_sums_that_lose_every_small_product(self, tier: str) -> None:
        """What is added to a large partial sum is less than half its spacing in fp32; the large products cancel at last."""
        period = 256
        asked, best = torch.full((1, 4 * period), 2.0**-6), torch.full((4 * period,), 2.0**-23)
        for at in range(0, 4 * period, period):
            asked[0, [at, at + period - 1]] = 0.25
            best[at], best[at + period - 1] = 0.25, -0.25
        searched = torch.zeros(101, 4 * period)
        searched[:, 1] = 800 * 2.0**-23  # as much as 800 small products; the best row has a thousand
        searched[50] = best
        check(top_k(asked, Corpus(searched), 10), asked, searched, 10)
        assert exact_scores(asked, searched)[0].argmax() == 50


PALETTE = [sign * value for value in (0, 1, 128, 2**19 + 2**11 - 1, 2**19 + 2**11, 2**19 + 2**11 + 1, 2**20 - 2**11) for sign in (-1, 1)]
"""In units of 2^-20: numbers at, just below and just above the middle of two bf16 numbers, and nearly nothing."""


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    dim = draw(st.integers(1, 6))
    numbers = st.sampled_from(PALETTE)
    distinct = draw(arrays(np.int64, (draw(st.integers(1, 6)), dim), elements=numbers))
    corpus = distinct[draw(st.lists(st.integers(0, len(distinct) - 1), min_size=1, max_size=60))]
    at = draw(st.integers(0, len(corpus) - 1))
    corpus[at] = draw(arrays(np.int64, dim, elements=numbers))
    return draw(arrays(np.int64, (draw(st.integers(1, 5)), dim), elements=numbers)), corpus, draw(st.integers(1, 70))


@pytest.mark.parametrize("first", TIERS)
@given(case=searches())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_vectors_of_awkward_numbers(first: str, case: tuple[np.ndarray, np.ndarray, int]) -> None:
    queries, numbers, k = case
    asked, searched = (torch.from_numpy(part * 2.0**-22).float() for part in (queries, numbers))  # at most 2^-2 each: shorter than 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "screen_types", lambda device: [TORCH[name] for name in TIERS[first]])
        patch.setitem(screen.SHAPES, "cpu", Shape(3, 16))
        patch.setattr(screen, "SLACK", 2)
        check(top_k(asked, Corpus(searched), k), asked, searched, k)
