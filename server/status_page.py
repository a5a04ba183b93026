"""The status page: what `redraft stats` prints, as one HTML page with a plot. No scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from redraft.v1 import common_pb2, stats_pb2

_MAX_RUNS = 50
_MAX_EPOCHS = 200
_WIDTH, _HEIGHT, _MARGIN = 560, 180, 36

_PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="15">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>redraft</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 0.5em 0; } td, th { padding: 0.15em 0.8em; text-align: right; }
th { font-weight: 600; border-bottom: 1px solid #bbb; } td:first-child, th:first-child { text-align: left; }
h2 { margin: 1.5em 0 0.3em; overflow-wrap: anywhere; } svg { max-width: 100%; } .quiet { color: #777; }
</style></head><body>
<h1>redraft $version</h1>
<p>up $uptime, history $store, $indexes indexes of $index_bytes ($builds built, $hits from memory, $same not modified,
$evictions dropped), $refused refused groups, $damaged damaged records</p>
<p>relay: $workers workers, $groups groups ($shared shared) of $held, $received tokens received, $sent sent, $dropped
dropped, lag $lag ms</p>
$runs
<p class="quiet"><a href="metrics">metrics</a></p>
</body></html>
"""
)


def render(answer: stats_pb2.GetStatsResponse) -> str:
    """Return the page for what the server's GetStats answers."""
    server = answer.server
    runs = "".join(_run(run) for run in answer.runs[:_MAX_RUNS])
    if len(answer.runs) > _MAX_RUNS:
        runs += (
            f'<p class="quiet">and {len(answer.runs) - _MAX_RUNS} more runs: <code>redraft stats</code></p>'
        )
    return _PAGE.substitute(
        version=escape(server.version),
        uptime=_duration(server.uptime_seconds),
        store=_size(server.store_bytes),
        indexes=server.indexes,
        index_bytes=_size(server.index_bytes),
        builds=server.index_builds,
        hits=server.index_hits,
        same=server.index_not_modified,
        evictions=server.index_evictions,
        refused=server.refused_groups,
        damaged=server.damaged_records,
        workers=server.relay.streams,
        groups=server.relay.groups,
        shared=server.relay.shared_groups,
        held=_size(server.relay.held_bytes),
        received=server.relay.received_tokens,
        sent=server.relay.sent_tokens,
        dropped=server.relay.dropped_tokens,
        lag=f"{1e3 * server.relay.lag_seconds:.0f}",
        runs=runs or '<p class="quiet">Nothing was published yet.</p>',
    )


def mean_length(acceptance: common_pb2.Acceptance) -> float | None:
    """Return emitted tokens a verification step, bonus token included; None without steps."""
    return acceptance.emitted / acceptance.steps if acceptance.steps else None


def plot(points: Sequence[tuple[int, float]]) -> str:
    """Return mean acceptance length across epochs as inline SVG; empty for fewer than one point.

    Args:
        points: (epoch, tokens a step), oldest first.
    """
    if not points:
        return ""
    first, last = points[0][0], points[-1][0]
    top = max(2.0, max(value for _, value in points) * 1.1)

    def x(epoch: int) -> float:
        share = (epoch - first) / (last - first) if last > first else 0.5
        return _MARGIN + share * (_WIDTH - 2 * _MARGIN)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - (max(value, 1.0) - 1.0) / (top - 1.0) * (_HEIGHT - 2 * _MARGIN)

    line = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in points)
    dots = "".join(
        f'<circle cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="3" fill="#2563eb">'
        f"<title>epoch {epoch}: {value:.2f} tokens a step</title></circle>"
        for epoch, value in points
    )
    grid = "".join(
        f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
        f'<text x="{_MARGIN - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>'
        for value in (1.0, 1.0 + (top - 1.0) / 2, top)
    )
    labels = f'<text x="{x(first):.1f}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{first}</text>'
    if last > first:
        labels += f'<text x="{x(last):.1f}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{last}</text>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" font-size="11" '
        f'aria-label="mean acceptance length by epoch">{grid}{labels}'
        f'<text x="{_MARGIN}" y="14">mean acceptance length by epoch, bonus token included</text>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2"/>{dots}</svg>'
    )


def _run(run: stats_pb2.RunStats) -> str:
    epochs = run.epochs[-_MAX_EPOCHS:]
    points = [
        (epoch.epoch, length)
        for epoch in epochs
        if epoch.HasField("acceptance") and (length := mean_length(epoch.acceptance)) is not None
    ]
    rows = _row("all", run.responses, run.tokens, "", run.acceptance if run.HasField("acceptance") else None)
    for epoch in reversed(epochs):
        reward = f"{epoch.reward_sum / epoch.rewarded:.3f}" if epoch.rewarded else ""
        acceptance = epoch.acceptance if epoch.HasField("acceptance") else None
        rows += _row(str(epoch.epoch), epoch.responses, epoch.tokens, reward, acceptance)
    return (
        f"<h2>{escape(run.run.name)}</h2><p>{run.prompts:,} prompts, {len(run.workers)} workers</p>{plot(points)}"
        "<table><tr><th>epoch</th><th>responses</th><th>tokens</th><th>mean reward</th><th>tokens a step</th>"
        f"<th>accepted of drafted</th></tr>{rows}</table>"
    )


def _row(
    name: str, responses: int, tokens: int, reward: str, acceptance: common_pb2.Acceptance | None
) -> str:
    length = rate = ""
    if acceptance is not None:
        mean = mean_length(acceptance)
        length = "" if mean is None else f"{mean:.2f}"
        drafted = sum(sum(source.drafted) for source in acceptance.sources)
        accepted = sum(sum(source.accepted) for source in acceptance.sources)
        rate = f"{accepted / drafted:.1%}" if drafted else ""
    cells = (name, f"{responses:,}", f"{tokens:,}", reward, length, rate)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _size(nbytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"
