"""Makes smaller or faster models of models with ONNX Runtime's own tools, and says what that cost and gained."""
