"""An encoder in the formats of others, each proven by loading it back without this package."""
