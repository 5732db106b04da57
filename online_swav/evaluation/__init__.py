"""Frozen-encoder protocols: what the representation is worth, as (name, value) pairs."""
