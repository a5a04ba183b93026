"""The draft server: a durable history of rollouts, and the indexes that are built from it."""

from redraft.server.config import DEFAULT_ADDRESS, ServerConfig
from redraft.server.server import DraftServer, create_server, serve

__all__ = ["DEFAULT_ADDRESS", "DraftServer", "ServerConfig", "create_server", "serve"]
