"""What redraft is compared with, and redraft itself, as proposers of the replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from redraft import Drafter, FrozenIndex, LiveIndex
from redraft.benchmarks.replay import Proposer, Rows
from redraft.benchmarks.traces import Int32Array, Response

EMPTY = np.empty(0, np.int32)


def build_history(responses: Sequence[Response], weights: Sequence[float] | None = None) -> FrozenIndex:
    """Index responses of one prompt; at least one."""
    offsets = np.zeros(len(responses) + 1, np.int64)
    np.cumsum([response.token_ids.size for response in responses], out=offsets[1:])
    ids = np.concatenate([response.token_ids for response in responses])
    return FrozenIndex.build(ids, offsets, None if weights is None else np.asarray(weights, np.float32))


class Redraft:
    """redraft's drafter: history of all earlier epochs, live siblings, the shared index.

    Args:
        min_survival: a token is drafted when it and all before it are accepted with at least this probability.
        history: whether earlier epochs are used; live: whether siblings share one index; policy, without: as
            `Drafter` takes them.
        age_decay: weight of an epoch over that of the next, in (0, 1].
        reward_weight: a response counts 1 + reward_weight when its reward is above its prompt's mean.
    """

    def __init__(
        self,
        min_survival: float = 0.2,
        *,
        history: bool = True,
        siblings: bool = True,
        policy: str = "blend",
        without: Sequence[str] = (),
        age_decay: float = 1.0,
        reward_weight: float = 0.0,
    ) -> None:
        self._drafter = Drafter(min_survival=min_survival, policy=policy, without=tuple(without))
        self._uses_history = history
        self._siblings = siblings
        self._age_decay = age_decay
        self._reward_weight = reward_weight
        self._prompts: Sequence[Int32Array] = []
        self._past: dict[int, list[tuple[Response, int]]] = {}
        self._history: dict[int, FrozenIndex] = {}
        self._live: dict[int, LiveIndex] = {}

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Forget the last epoch's groups; indexes are built as prompts come."""
        self._prompts = prompts
        self._live, self._history, self._past = {}, {}, {}
        if not self._uses_history:
            return
        for age, epoch in enumerate(reversed(history)):
            for response in epoch:
                self._past.setdefault(response.prompt, []).append((response, age))

    def _weights(self, past: list[tuple[Response, int]]) -> list[float] | None:
        if self._age_decay == 1 and self._reward_weight == 0:
            return None
        mean = float(np.mean([response.reward for response, _ in past]))
        return [
            self._age_decay**age * (1 + self._reward_weight * (response.reward > mean))
            for response, age in past
        ]

    def open(self, response: Response) -> int:
        """Open a request on its group's live index and its prompt's history."""
        prompt = response.prompt
        if prompt in self._past and prompt not in self._history:
            past = self._past[prompt]
            self._history[prompt] = build_history([r for r, _ in past], self._weights(past))
        live = self._live.get(prompt)
        if live is None or not self._siblings:
            live = LiveIndex(self._prompts[prompt])
            self._live[prompt] = live
        return self._drafter.open(live, response.token_ids[:1], history=self._history.get(prompt))

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Make the one call of the engine step."""
        batch = self._drafter.step(requests, new, offsets, horizons)
        return Rows(batch.token_ids, batch.offsets, batch.probabilities, batch.sources)

    def close(self, request: int) -> None:
        """Close the request; its text goes on serving the group."""
        self._drafter.close(request)


class Plain:
    """No drafts: one token a step."""

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Do nothing."""

    def open(self, response: Response) -> int:
        """Return any handle."""
        return 0

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Draft nothing."""
        return Rows(EMPTY, np.zeros(len(requests) + 1, np.int32))

    def close(self, request: int) -> None:
        """Do nothing."""


class _OneByOne:
    """Drafts request by request, from each one's text."""

    def __init__(self) -> None:
        self._texts: dict[int, list[int]] = {}
        self._prompt_of: dict[int, int] = {}
        self._prompts: Sequence[Int32Array] = []
        self._next = 0

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        self._prompts = prompts
        self.learn(history)

    def learn(self, history: list[list[Response]]) -> None:
        """Index the history."""

    def opened(self, request: int, response: Response) -> None:
        """Prepare for a request."""

    def grown(self, request: int, tokens: Int32Array) -> None:
        """Take in tokens that came."""

    def draft(self, request: int, horizon: int) -> Int32Array:
        """Return the draft of a request."""
        raise NotImplementedError

    def open(self, response: Response) -> int:
        """Admit a request."""
        self._next += 1
        self._texts[self._next] = [int(response.token_ids[0])]
        self._prompt_of[self._next] = response.prompt
        self.opened(self._next, response)
        return self._next

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Take in what came, then draft for each."""
        for i, request in enumerate(requests.tolist()):
            tokens = new[offsets[i] : offsets[i + 1]]
            if tokens.size:
                self._texts[request].extend(tokens.tolist())
                self.grown(request, tokens)
        drafts = [
            self.draft(request, horizon) if horizon else EMPTY
            for request, horizon in zip(requests.tolist(), horizons.tolist(), strict=True)
        ]
        bounds = np.zeros(len(drafts) + 1, np.int32)
        np.cumsum([draft.size for draft in drafts], out=bounds[1:])
        return Rows(np.concatenate(drafts) if drafts else EMPTY, bounds)

    def close(self, request: int) -> None:
        """Drop the request's text."""
        del self._texts[request], self._prompt_of[request]


class LastEpoch(_OneByOne):
    """SpecRL's rule: the last epoch's responses to the prompt, as a suffix tree; a draft of 2 that doubles, up
    to 32, while all of it is accepted, and halves else.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trees: dict[int, FrozenIndex] = {}
        self._window: dict[int, int] = {}
        self._drafted: dict[int, int] = {}

    def learn(self, history: list[list[Response]]) -> None:
        """Index the last epoch only."""
        by_prompt: dict[int, list[Response]] = {}
        for response in history[-1] if history else []:
            by_prompt.setdefault(response.prompt, []).append(response)
        self._trees = {prompt: build_history(responses) for prompt, responses in by_prompt.items()}

    def opened(self, request: int, response: Response) -> None:
        """Start with a short window."""
        self._window[request] = 2
        self._drafted[request] = 0

    def grown(self, request: int, tokens: Int32Array) -> None:
        """Double or halve the window."""
        drafted = self._drafted[request]
        if drafted:
            window = self._window[request]
            self._window[request] = min(32, window * 2) if tokens.size > drafted else max(1, window // 2)

    def draft(self, request: int, horizon: int) -> Int32Array:
        """Follow the heaviest continuation of the longest match."""
        tree = self._trees.get(self._prompt_of[request])
        draft = EMPTY
        if tree is not None:
            context = np.asarray(self._texts[request][-64:], np.int32)
            draft = tree.continuation(context, horizon=min(horizon, self._window[request]))[0]
        self._drafted[request] = draft.size
        return draft


class GlobalSuffixTree(_OneByOne):
    """The rule of vLLM's `suffix` (ArcticInference): a tree of bounded depth over all responses, history and
    live, another over the request's own text; of all match lengths the draft with the highest score.

    Args:
        depth: match and draft together.
        factor: most draft tokens for each matched token.
        min_probability: of a drafted token, with all before it.
    """

    def __init__(self, depth: int = 24, factor: float = 1.0, min_probability: float = 0.1) -> None:
        super().__init__()
        self._depth = depth
        self._factor = factor
        self._min_probability = min_probability
        self._all = LiveIndex(EMPTY)
        self._own: dict[int, LiveIndex] = {}
        self._sequences: dict[int, int] = {}

    def learn(self, history: list[list[Response]]) -> None:
        """Put all earlier responses into the global tree."""
        self._all = LiveIndex(EMPTY)
        for epoch in history:
            for response in epoch:
                self._all.end_sequence(self._all.add_sequence(response.token_ids))

    def opened(self, request: int, response: Response) -> None:
        """Start both trees' texts."""
        first = response.token_ids[:1]
        self._own[request] = LiveIndex(self._prompts[response.prompt])
        self._own[request].add_sequence(first)
        self._sequences[request] = self._all.add_sequence(first)

    def grown(self, request: int, tokens: Int32Array) -> None:
        """Append to both."""
        self._own[request].append(0, tokens)
        self._all.append(self._sequences[request], tokens)

    def draft(self, request: int, horizon: int) -> Int32Array:
        """Return the better of the two trees' drafts; the own text wins a tie."""
        text = self._texts[request]
        whole = np.asarray(text[-self._depth :], np.int32)
        if whole.size < self._depth:
            prompt = self._prompts[self._prompt_of[request]][-self._depth + whole.size :]
            local_context = np.concatenate([prompt, whole])
        else:
            local_context = whole
        own, own_score = self._best(self._own[request], local_context, horizon)
        shared, score = self._best(self._all, whole, horizon)
        return own if own_score >= score else shared

    def _best(self, tree: LiveIndex, context: Int32Array, horizon: int) -> tuple[Int32Array, float]:
        best, best_score = EMPTY, 0.0
        for length in range(1, min(context.size, self._depth - 1) + 1):
            suffix = context[context.size - length :]
            # The text's own end is an occurrence too, with nothing after it.
            if tree.count(suffix) < 2:
                break
            most = min(int(length * self._factor), self._depth - length, horizon)
            tokens, ratios = tree.continuation(suffix, horizon=most)
            survival = np.cumprod(ratios)
            kept = int((survival >= self._min_probability).sum())
            score = float(survival[:kept].sum())
            if score > best_score:
                best, best_score = tokens[:kept], score
        return best, best_score

    def close(self, request: int) -> None:
        """Drop the own tree; the global one keeps the text."""
        super().close(request)
        del self._own[request]
        self._all.end_sequence(self._sequences.pop(request))


class Oracle(Redraft):
    """redraft's proposals without a threshold, cut by someone who knows which will be accepted."""

    knows_the_truth = True

    def __init__(self) -> None:
        super().__init__(0.0)


BASELINES: dict[str, Callable[[], Proposer]] = {
    "plain": Plain,
    "own": partial(Redraft, 0.2, history=False, siblings=False, without=("shared",)),
    "last-epoch": LastEpoch,
    "siblings": partial(Redraft, 0.2, history=False, without=("shared",)),
    "suffix": GlobalSuffixTree,
    "oracle": Oracle,
}
ABLATIONS: dict[str, Callable[[float], Proposer]] = {
    "redraft without shared": partial(Redraft, without=("shared",)),
    "redraft without mixing": partial(Redraft, without=("mixing",)),
    "redraft without calibration": partial(Redraft, without=("calibration",)),
    "redraft without blending": partial(Redraft, without=("blending",)),
    "redraft without history": partial(Redraft, history=False),
    "redraft without siblings": partial(Redraft, siblings=False),
    "redraft, longest match": partial(Redraft, policy="longest"),
}
