"""benchmarks/calibration_halves.py: what is mended on one half is measured on the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rstinynet.data.folder import open_split


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/calibration_halves.py")


def scored(random, shift, count=4000):
    """Scores whose logits are twice too small and, of this class, moved by `shift`."""
    truth = random.normal(size=count)
    right = random.random(count) < 1 / (1 + np.exp(-truth))
    return 1 / (1 + np.exp(-(truth / 2 + shift))), right


def test_a_line_for_each_class_mends_what_one_line_cannot(script):
    random = np.random.default_rng(0)
    here, there = ([scored(random, 1.2), scored(random, 0.2)] for _ in range(2))
    errors = {name: script.measured(there, mend) for name, mend in script.mends(here).items()}
    assert errors["a line for each class"][1] < 0.03 < 0.08 < errors["one line"][1]
    likely = [error[2] for error in errors.values()]
    assert min(likely) == likely[-1]
    assert max(likely) == likely[0]


def test_a_class_that_is_all_right_gets_the_line_of_all(script):
    random = np.random.default_rng(0)
    scores, right = scored(random, 0.2)
    parts = [(scores, right), (scores[right][:50], right[right][:50])]
    made = script.mends(parts)
    np.testing.assert_array_equal(
        made["a line for each class"](1, scores), made["one line"](1, scores)
    )


def test_tiles_of_a_scene_stay_in_one_half(script, synthetic):
    labelled = open_split(synthetic(train=12, val=1, size=64), "train")
    tiles = tuple(
        replace(image, path=image.path.with_name(f"town{at // 3}_{64 * (at % 3)}_0.png"))
        for at, image in enumerate(labelled.images)
    )
    parts = script.halves(replace(labelled, images=tiles), np.random.default_rng(0))
    one, other = ({image.path.name[:5] for image in part.images} for part in parts)
    assert (len(one), len(other), len(one | other)) == (2, 2, 4)
    assert sum(len(part) for part in parts) == 12
