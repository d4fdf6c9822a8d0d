"""What runs a model: torch, ONNX Runtime or OpenVINO, each behind one small protocol."""
