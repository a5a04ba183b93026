#include "csrc/policy_blend.h"

#include <algorithm>

namespace redraft {
namespace {

constexpr int32_t kStartToken = -1;

}  // namespace

void HistoryContexts::start(const FrozenIndex& history, std::span<const int32_t> tokens) {
  first = history.start();
  second = {};
  advance(history, tokens);
}

void HistoryContexts::advance(const FrozenIndex& history, std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) {
    const uint32_t length = first.length;
    history.advance(first, std::span(&token, 1));
    if (first.length == length + 1) {
      // What lay between the two occurred just where the first did, and goes on doing so.
      history.advance(second, std::span(&token, 1));
    } else {
      second = first;
    }
    if (second.length > 0 && history.occurrences(second).count == history.occurrences(first).count) {
      history.shorten(second);
    }
  }
}

float BlendPolicy::count(const Context& context, const Level& level, int32_t token) const {
  if (token == level.best) return level.best_count;
  if (level.entry != nullptr) return level.entry->count(token);
  if (level.source == Source::kHistory) return context.history->weight_next(level.frozen, token);
  return static_cast<float>(context.live->count_next(level.at, token));
}

// Collects the contexts, the weakest first: shared ones, then those of history and live by length.
uint32_t BlendPolicy::gather(const Context& context, const HistoryContexts& frozen, const LiveCursor& live,
                             bool own, uint32_t length, const int32_t* end, Level* levels) const {
  uint32_t num = 0;
  if (options_.shared) {
    const SharedIndex::Entry* entries[SharedIndex::kOrders];
    const uint32_t known = shared_.find(end, length, entries);
    for (uint32_t i = options_.blending || known == 0 ? 0 : known - 1; i < known; ++i) {
      const SharedIndex::Entry& entry = *entries[i];
      const uint32_t best = entry.best();
      levels[num++] = {Source::kShared,    i + 1, entry.total, entry.tokens[best],
                       entry.counts[best], {},    {},          &entry};
    }
  }
  const uint32_t kept = options_.blending ? kLevels : 1;
  const uint32_t first = num;
  if (context.live != nullptr) {
    LiveCursor at = live;
    for (uint32_t taken = 0; taken < kept && at.length > 0; context.live->shorten(at)) {
      int32_t token;
      uint32_t times;
      if (!context.live->best_next(at, token, times)) continue;
      const uint32_t total = std::max(context.live->count(at) - (own ? 1 : 0), times);
      levels[num++] = {Source::kLive,
                       std::min(at.length, length),
                       static_cast<float>(total),
                       token,
                       static_cast<float>(times),
                       {},
                       at,
                       nullptr};
      ++taken;
    }
  }
  if (context.history != nullptr) {
    FrozenCursor at = frozen.first;
    context.history->shorten_to_continuation(at);
    const bool ended = at.length < frozen.first.length;
    for (uint32_t taken = 0; taken < kept && at.length > 0; ++taken) {
      int32_t token;
      float times;
      if (!context.history->best_next(at, token, times)) break;
      levels[num++] = {Source::kHistory,
                       at.length,
                       std::max(context.history->occurrences(at).weight, times),
                       token,
                       times,
                       at,
                       {},
                       nullptr};
      if (ended) break;
      at = frozen.second;
    }
  }
  // By insertion, as they are a handful: stable, so that of equals history is the stronger.
  for (uint32_t i = first + 1; i < num; ++i) {
    for (uint32_t j = i; j > first && levels[j].length < levels[j - 1].length; --j) {
      std::swap(levels[j], levels[j - 1]);
    }
  }
  return num;
}

void BlendPolicy::draft(const Context& context, uint32_t horizon, float min_survival, Draft& draft,
                        Trail& trail) {
  trail.clear();
  // The shared index reads a few tokens back, no more.
  text_.clear();
  const size_t tail = std::min<size_t>(context.response.size(), SharedIndex::kOrders);
  if (tail == context.response.size()) text_.push_back(kStartToken);
  text_.insert(text_.end(), context.response.end() - static_cast<std::ptrdiff_t>(tail),
               context.response.end());
  HistoryContexts frozen = context.frozen;
  LiveCursor live;
  if (context.live != nullptr) live = context.live->last(context.sequence);
  bool own = true;  // the request's own context occurs once more, with nothing after it yet
  float survival = 1;
  Level levels[SharedIndex::kOrders + 2 * kLevels];
  for (uint32_t position = 0; position < horizon; ++position) {
    const auto length = static_cast<uint32_t>(context.response.size()) + position + 1;  // START counts
    const uint32_t num = gather(context, frozen, live, own, std::min<uint32_t>(length, 1u << 30),
                                text_.data() + text_.size(), levels);
    // text_ may be shorter than `length`; gather() reads at most kOrders tokens of it.
    if (num == 0) return;
    uint32_t history_length = 0;
    uint32_t live_length = 0;
    for (uint32_t i = 0; i < num; ++i) {
      if (levels[i].source == Source::kHistory) history_length = levels[i].length;
      if (levels[i].source == Source::kLive) live_length = levels[i].length;
    }
    uint16_t buckets[kMaxSays];
    uint8_t sources[kMaxSays];
    for (uint32_t i = 0; i < num; ++i) {
      const Level& level = levels[i];
      sources[i] = level.source == Source::kShared ? 0 : level.source == Source::kHistory ? 1 : 2;
      buckets[i] = Calibration::bucket(sources[i], level.length, level.total, level.best_count / level.total);
    }
    Judgement chosen;
    int32_t seen[kChoices];
    uint32_t num_seen = 0;
    for (uint32_t i = num; i-- > 0 && num_seen < kChoices;) {
      const int32_t token = levels[i].best;
      if (token < 0 || std::find(seen, seen + num_seen, token) != seen + num_seen) continue;
      seen[num_seen++] = token;
      Judgement judgement;
      judgement.token = token;
      for (uint32_t k = 0; k < num; ++k) {
        const Level& level = levels[k];
        judgement.says[k] = {buckets[k], sources[k],
                             std::min(1.0f, count(context, level, token) / level.total)};
      }
      judgement.num_says = static_cast<uint8_t>(num);
      calibration_.mix(judgement, history_length, live_length);
      if (chosen.token < 0 || judgement.mixed > chosen.mixed) chosen = judgement;
    }
    if (chosen.token < 0) return;
    const Level& top = levels[num - 1];
    calibration_.map(chosen, sources[num - 1], top.length, options_.calibrated);
    trail.push_back(chosen);
    survival *= chosen.probability;
    if (survival < min_survival) return;
    if (position == 0) {
      draft.source = top.source;
      draft.match_length = top.length;
    }
    draft.tokens.push_back(chosen.token);
    draft.probabilities.push_back(chosen.probability);
    draft.expected += survival;
    text_.push_back(chosen.token);
    if (context.history != nullptr) frozen.advance(*context.history, std::span(&chosen.token, 1));
    if (context.live != nullptr) context.live->advance(live, chosen.token);
    own = false;
  }
}

void BlendPolicy::learn(Trail& trail, std::span<const int32_t> tokens) {
  for (size_t i = 0; i < trail.size() && i < tokens.size(); ++i) {
    const bool accepted = trail[i].token == tokens[i];
    calibration_.learn(trail[i], accepted);
    if (!accepted) break;
  }
  trail.clear();
}

void BlendPolicy::observe(std::span<const int32_t> response, size_t added) {
  if (!options_.shared || added == 0) return;
  const size_t from = response.size() - added;
  const size_t tail = std::min<size_t>(from, SharedIndex::kOrders);
  text_.clear();
  if (tail == from) text_.push_back(kStartToken);
  text_.insert(text_.end(), response.begin() + static_cast<std::ptrdiff_t>(from - tail), response.end());
  for (size_t i = text_.size() - added; i < text_.size(); ++i) {
    shared_.add(text_.data() + i, static_cast<uint32_t>(i), text_[i]);
  }
}

}  // namespace redraft
