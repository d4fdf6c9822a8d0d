"""Published data sets: their layout, what they must hold, and how they become COCO folders."""
