"""Two ordinary handlers, written for cold_start.py: what the endpoint would be with torch.nn, and with onnxruntime."""
