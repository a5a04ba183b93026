"""The client: publishes finished responses, fetches indexes in the background, reports acceptance.

Nothing here blocks a rollout or raises because a server cannot be reached: a missing server costs drafts, never
training. Wrong arguments raise at once.
"""

from redraft.client.acceptance import AcceptanceReporter, Counters
from redraft.client.api import DraftClient
from redraft.client.credentials import Credentials
from redraft.client.draft_source import DraftSource, DraftSourceStats
from redraft.client.publisher import Publisher, PublisherStats
from redraft.client.relay import Relay, RelayStats
from redraft.client.rendezvous import choose, order

__all__ = [
    "AcceptanceReporter",
    "Counters",
    "Credentials",
    "DraftClient",
    "DraftSource",
    "DraftSourceStats",
    "Publisher",
    "PublisherStats",
    "Relay",
    "RelayStats",
    "choose",
    "order",
]
