"""Networks that come from elsewhere or go elsewhere: the hub, published checkpoints, ONNX."""
