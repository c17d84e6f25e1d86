"""Floor 6: quantized paged attention in Triton. The only package that imports torch or triton."""
