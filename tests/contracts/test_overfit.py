"""A small model learns four tiles by heart."""

from __future__ import annotations

from dataclasses import replace

import torch

from rstinynet.data.augment import AugmentSettings
from rstinynet.model.weights import load_weights
from rstinynet.train.job import Job
from rstinynet.train.loop import train
from rstinynet.train.recipe import short

UNCHANGED = AugmentSettings(
    imgsz=64,
    mosaic_prob=0.0,
    scale=(1.0, 1.0),
    symmetries="none",
    hsv=(0.0, 0.0, 0.0),
    grey_prob=0.0,
    contrast_prob=0.0,
    blur_prob=0.0,
    noise_prob=0.0,
)


def test_overfits_four_tiles(tiles, tmp_path):
    recipe = replace(
        short(),
        epochs=90,
        batch=4,
        lr0=3e-3,
        warmup_iterations=10,
        ema_decay=0.9,
        ema_tau=10.0,
        norm_batches=4,
        val_every=0,
        log_every=1000,
        augment=UNCHANGED,
    )
    metrics = train(Job(model="yolo11n", data=tiles, out=tmp_path / "run", recipe=recipe))
    assert metrics["ap"] > 0.9

    model, metadata = load_weights(tmp_path / "run" / metrics["weights"])
    assert metadata.names == ("storage-tank", "vehicle")
    assert metadata.category_ids == (1, 4)
    assert metadata.metrics["ap"] == metrics["ap"]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
