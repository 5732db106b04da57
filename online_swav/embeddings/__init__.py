"""Embeddings of whole streams: written as Parquet, searched by a picture."""

from __future__ import annotations

from online_swav.errors import ConfigError


def require_pyarrow() -> None:
    """See that Parquet files can be read and written.

    Raises:
        ConfigError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"embeddings are kept as Parquet, and pyarrow is not installed here ({error}); "
            "pip install 'online-swav[embed]'"
        ) from error
