#include "csrc/policy_blend.h"

#include <algorithm>
#include <utility>

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
    const bool inside = first.left > 0 && second.left > 0;
    const uint32_t second_length = second.length;
    history.advance(first, std::span(&token, 1));
    if (first.length == length + 1) {
      // What lay between the two occurred just where the first did, and goes on doing so.
      history.advance(second, std::span(&token, 1));
      if (inside && second.length == second_length + 1) continue;  // along their labels nothing changes
    } else {
      second = first;
    }
    if (second.length > 0 && history.occurrences(second).count == history.occurrences(first).count) {
      history.shorten(second);
    }
  }
}

float BlendPolicy::share(const Context& context, const Level& level, int32_t token) const {
  if (token == level.best) return level.best_share;
  float count;
  if (level.entry != nullptr) {
    count = level.entry->count(token);
  } else if (level.source == Source::kHistory) {
    count = context.history->weight_next(level.frozen, token);
  } else {
    count = static_cast<float>(context.live->count_next(level.at, token));
  }
  return std::min(1.0f, count * level.scale);
}

void BlendPolicy::judge(Level& level, float total, float best_count) const {
  level.scale = 1 / total;
  level.best_share = std::min(1.0f, best_count * level.scale);
  level.bucket = Calibration::bucket(level.say, level.length, total, level.best_share);
  level.rest = calibration_.distrust(level.bucket);
}

// The contexts of the shared index, the weakest first.
uint32_t BlendPolicy::gather_shared(const int32_t* end, uint32_t length, Level* levels) const {
  const SharedIndex::Entry* entries[SharedIndex::kOrders];
  const uint32_t known = shared_.find(end, length, entries);
  uint32_t num = 0;
  for (uint32_t i = options_.blending || known == 0 ? 0 : known - 1; i < known; ++i) {
    Level& level = levels[num++];
    level.source = Source::kShared;
    level.say = 0;
    level.length = i + 1;
    level.best = entries[i]->tokens[0];
    level.entry = entries[i];
    judge(level, entries[i]->total, entries[i]->counts[0]);
  }
  return num;
}

// The contexts of live and history, the weakest first.
uint32_t BlendPolicy::gather(const Context& context, const HistoryContexts& frozen, const LiveCursor& live,
                             bool own, uint32_t length, Level* levels) const {
  uint32_t num = 0;
  const uint32_t kept = options_.blending ? kLevels : 1;
  if (context.live != nullptr) {
    LiveCursor at = live;
    for (uint32_t taken = 0; taken < kept && at.length > 0; context.live->shorten(at)) {
      int32_t token;
      uint32_t times;
      if (!context.live->best_next(at, token, times)) continue;
      Level& level = levels[num++];
      level.source = Source::kLive;
      level.say = 2;
      level.length = std::min(at.length, length);
      level.best = token;
      level.at = at;
      level.entry = nullptr;
      const uint32_t total = std::max(context.live->count(at) - (own ? 1 : 0), times);
      judge(level, static_cast<float>(total), static_cast<float>(times));
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
      float total;
      if (!context.history->best_next(at, token, times, total)) break;
      Level& level = levels[num++];
      level.source = Source::kHistory;
      level.say = 1;
      level.length = at.length;
      level.best = token;
      level.frozen = at;
      level.entry = nullptr;
      judge(level, std::max(total, times), times);
      if (ended) break;
      at = frozen.second;
    }
  }
  // By insertion, as they are a handful: stable, so that of equals history is the stronger.
  for (uint32_t i = 1; i < num; ++i) {
    for (uint32_t j = i; j > 0 && levels[j].length < levels[j - 1].length; --j) {
      std::swap(levels[j], levels[j - 1]);
    }
  }
  return num;
}

// The likeliest token, as the mixer judges it, of the two whose blended probabilities are highest among the
// most frequent continuations of each context.
Judgement BlendPolicy::choose(const Context& context, std::span<const Level> levels, float base) const {
  struct Choice {
    int32_t token = -1;
    float chain = -1;
    float shares[SharedIndex::kOrders + 2 * kLevels];
  };
  Choice choices[kChoices];
  uint32_t num = 0;
  Choice* best = nullptr;
  Choice* second = nullptr;
  for (size_t i = levels.size(); i-- > 0 && num < kChoices;) {
    Choice& choice = choices[num];
    choice.token = levels[i].best;
    if (choice.token < 0) continue;
    if (std::any_of(choices, choices + num, [&](const Choice& c) { return c.token == choice.token; }))
      continue;
    ++num;
    choice.chain = base;
    for (size_t k = 0; k < levels.size(); ++k) {
      choice.shares[k] = share(context, levels[k], choice.token);
      choice.chain = (1 - levels[k].rest) * choice.shares[k] + levels[k].rest * choice.chain;
    }
    if (best == nullptr || choice.chain > best->chain) {
      second = std::exchange(best, &choice);
    } else if (second == nullptr || choice.chain > second->chain) {
      second = &choice;
    }
  }
  Judgement judged[2];
  if (best == nullptr) return judged[0];
  uint32_t longest[3] = {};  // by calibration's source; the strongest contexts come last
  for (const Level& level : levels) longest[level.say] = level.length;
  for (const Choice* choice : {best, second}) {
    if (choice == nullptr) return judged[0];
    Judgement& judgement = judged[choice == best ? 0 : 1];
    judgement.token = choice->token;
    judgement.base = base;
    judgement.num_says = static_cast<uint8_t>(levels.size());
    for (size_t k = 0; k < levels.size(); ++k) {
      judgement.says[k] = {levels[k].bucket, levels[k].say, choice->shares[k]};
    }
    calibration_.mix(judgement, longest[1], longest[2]);
  }
  return judged[1].mixed > judged[0].mixed ? judged[1] : judged[0];
}

void BlendPolicy::draft(const Context& context, uint32_t horizon, float min_survival, Draft& draft,
                        Trail& trail) const {
  trail.clear();
  // The last tokens of the response and of the draft, for the shared index; the response begins with START.
  int32_t text[SharedIndex::kOrders];
  const uint32_t tail =
      static_cast<uint32_t>(std::min<size_t>(context.response.size(), SharedIndex::kOrders));
  std::copy_n(context.response.end() - tail, tail, text + SharedIndex::kOrders - tail);
  if (tail < SharedIndex::kOrders) text[SharedIndex::kOrders - tail - 1] = kStartToken;
  HistoryContexts frozen = context.frozen;
  LiveCursor live;
  if (context.live != nullptr) live = context.live->last(context.sequence);
  bool own = true;  // the request's own context occurs once more, with nothing after it yet
  float survival = 1;
  Level levels[SharedIndex::kOrders + 2 * kLevels];
  for (uint32_t position = 0; position < horizon; ++position) {
    const uint32_t length = static_cast<uint32_t>(std::min<size_t>(context.response.size(), 1u << 30)) +
                            position + 1;  // START counts
    // The first places are for the shared contexts, which are weaker than the others.
    constexpr uint32_t first = SharedIndex::kOrders;
    const uint32_t last = first + gather(context, frozen, live, own, length, levels + first);
    float rest = 1;  // weight in the blend of what is shorter than levels[begin]
    uint32_t begin = last;
    while (begin > first && rest >= kNegligible) rest *= levels[--begin].rest;
    float base = Calibration::kUnheard;
    if (rest < kNegligible) {
      base = levels[begin].best_share;  // as if the contexts left out said the same
    } else if (options_.shared) {
      const uint32_t num =
          gather_shared(text + SharedIndex::kOrders, std::min(length, SharedIndex::kOrders), levels);
      begin -= num;
      std::move_backward(levels, levels + num, levels + first);
    }
    Judgement chosen = choose(context, std::span(levels + begin, last - begin), base);
    if (chosen.token < 0) return;
    const Level& top = levels[last - 1];
    calibration_.map(chosen, top.say, top.length, options_.calibrated);
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
    std::copy(text + 1, text + SharedIndex::kOrders, text);
    text[SharedIndex::kOrders - 1] = chosen.token;
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
