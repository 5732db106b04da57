"""A served encoder: image bytes in, embeddings out, over HTTP by Ray Serve."""
