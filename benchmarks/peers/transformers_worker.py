"""RT-DETR, D-FINE and DETR of transformers, from random weights; run by peers.py.

Configurations are built here and nothing is loaded from a hub.
"""

from __future__ import annotations

import common
import torch
import transformers
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
)


def build(name: str, classes: int, imgsz: int):
    """The model of this name with the library's default sizes, all of it to be trained.

    The library holds norms, and DETR's whole backbone, as pretrained weights have them; of random
    ones they would stay random.
    """
    held = {"num_labels": classes, "freeze_backbone_batch_norms": False}
    if name == "rtdetr":
        return RTDetrForObjectDetection(RTDetrConfig(**held))
    if name == "dfine":
        return DFineForObjectDetection(DFineConfig(**held))
    backbone = ResNetConfig(out_features=["stage4"])
    model = DetrForObjectDetection(
        DetrConfig(
            num_labels=classes,
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=backbone,
        )
    )
    thaw(model)
    return model


def thaw(model: torch.nn.Module) -> None:
    """Have all weights trained, and batch norms in the place of frozen ones, in place."""
    model.requires_grad_(True)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("FrozenBatchNorm2d"):
                setattr(module, name, torch.nn.BatchNorm2d(len(child.weight)))


def main() -> None:
    job, begun = common.start()
    model = build(job.model, len(job.names), job.imgsz).to(job.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)

    def loss_of(images, boxes, labels):
        targets = []
        for own, kinds in zip(boxes, labels, strict=True):
            own = own.reshape(-1, 4) / job.imgsz
            centred = torch.cat([(own[:, :2] + own[:, 2:]) / 2, own[:, 2:] - own[:, :2]], dim=1)
            targets.append({"boxes": centred.to(job.device), "class_labels": kinds.to(job.device)})
        return model(pixel_values=images, labels=targets).loss

    def detect(image):
        output = model(pixel_values=image)
        if job.model == "detr":
            scores = output.logits.softmax(-1)[0, :, :-1]
        else:
            scores = output.logits.sigmoid()[0]
        queries, classes = scores.shape
        centred = output.pred_boxes[0] * job.imgsz
        boxes = torch.cat(
            [centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2], dim=1
        )
        each = boxes[:, None].expand(queries, classes, 4).reshape(-1, 4)
        labels = torch.arange(classes).repeat(queries)
        return each.cpu().numpy(), scores.reshape(-1).cpu().numpy(), labels.numpy()

    common.fit(job, model, optimizer, loss_of)
    entries = common.predict(job, model, detect)
    cost = common.gflops(model, lambda image: model(pixel_values=image))
    queries = model.config.num_queries
    common.finish(
        job,
        entries,
        model=model,
        gflops=cost,
        begun=begun,
        library=f"transformers {transformers.__version__}",
        note=f"{queries} queries: at most so many objects an image",
    )


if __name__ == "__main__":
    main()
