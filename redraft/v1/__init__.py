"""Code generated from proto/redraft/v1 at build time."""
