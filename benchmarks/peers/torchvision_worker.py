"""Torchvision's Faster R-CNN and FCOS (ResNet50-FPN), from random weights; run by peers.py."""

from __future__ import annotations

import common  # first: it lets torchvision be imported
import torch
import torchvision
from torchvision.extension import _has_ops
from torchvision.models import detection


def main() -> None:
    job, begun = common.start()
    if not _has_ops():
        torchvision.ops.boxes.nms = common.plain_nms
    options = {
        "weights": None,
        "weights_backbone": None,
        "trainable_backbone_layers": 5,
        "min_size": job.imgsz,
        "max_size": job.imgsz,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    # Class 0 is the background of both.
    classes = len(job.names) + 1
    if job.model == "fasterrcnn":
        model = detection.fasterrcnn_resnet50_fpn(
            num_classes=classes,
            box_score_thresh=common.LEAST_CONF,
            box_detections_per_img=common.MAX_DET,
            rpn_post_nms_top_n_test=common.MAX_DET,
            **options,
        )
    else:
        model = detection.fcos_resnet50_fpn(
            num_classes=classes,
            score_thresh=common.LEAST_CONF,
            detections_per_img=common.MAX_DET,
            **options,
        )
    model.to(job.device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.02 * job.batch / 16, momentum=0.9, weight_decay=1e-4
    )

    def loss_of(images, boxes, labels):
        targets = [
            {"boxes": b.reshape(-1, 4).to(job.device), "labels": (own + 1).to(job.device)}
            for b, own in zip(boxes, labels, strict=True)
        ]
        return sum(model(list(images), targets).values())

    def detect(image):
        [found] = model([image[0]])
        labels = found["labels"].cpu().numpy() - 1
        return found["boxes"].cpu().numpy(), found["scores"].cpu().numpy(), labels

    common.fit(job, model, optimizer, loss_of)
    entries = common.predict(job, model, detect)
    model.transform.min_size, model.transform.max_size = (common.COST_IMGSZ,), common.COST_IMGSZ
    cost = common.gflops(model, lambda image: model([image[0]]))
    told = {"library": f"torchvision {torchvision.__version__}"}
    if not _has_ops():
        told["note"] = "torchvision's operators missing: plain non-maximum suppression"
    common.finish(job, entries, model=model, gflops=cost, begun=begun, **told)


main()
