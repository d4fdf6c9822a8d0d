"""What commands show of what they were given."""

from __future__ import annotations

from rstinynet.cli.shown import told_apart


def test_headings_have_folders_only_where_names_are_alike() -> None:
    assert told_apart(["runs/a.safetensors", "found.json"]) == ["a.safetensors", "found.json"]
    alike = ["one/found.json", "two/found.json"]
    assert told_apart(alike) == alike


def test_models_that_search_together_are_all_named() -> None:
    assert told_apart(["runs/a.onnx,runs/b.onnx", "found.json"]) == ["a.onnx,b.onnx", "found.json"]
    runs = ["one/best.safetensors,two/best.safetensors"]
    assert told_apart(runs) == runs
