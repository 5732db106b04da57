"""Learn image representations with SwAV from a stream of WebDataset shards that never ends."""
