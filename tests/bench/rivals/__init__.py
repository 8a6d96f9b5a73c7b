"""Two ordinary handlers for cold_start.py: the endpoint with torch.nn, and with onnxruntime."""
