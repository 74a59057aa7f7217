"""Networks as files for other programs: ``counterpose export onnx``."""
