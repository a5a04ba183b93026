#include "csrc/policy_blend.h"

#include <algorithm>
#include <utility>

namespace redraft {
namespace {

constexpr int32_t kStartToken = -1;

// Whether two contexts of one index have the same occurrences, and so the same continuations. Inside an edge
// the position alone tells: `left` counts from where a leaf's edge was entered, which each context does
// elsewhere.
bool same_class(const FrozenCursor& a, const FrozenCursor& b) {
  if ((a.left == 0) != (b.left == 0)) return false;
  return a.left == 0 ? a.node == b.node : a.target == b.target && a.position == b.position;
}

// The share of occurrences, from 0 to 1 whatever a damaged index says.
float share_of(float count, float total) { return count > 0 && count < total ? count / total : 1.0f; }

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
    if (second.length > 0 && same_class(first, second)) history.shorten(second);
  }
}

// What the contexts say, and about which tokens.
struct BlendPolicy::Contexts {
  std::array<int32_t, kContexts> best;  // what came next most often; -1 without a context
  std::array<uint16_t, kContexts> kind;
  std::array<uint16_t, kContexts> says;  // about the best
  std::array<float, kContexts> share;    // of the best
  std::array<float, kContexts> total;
  std::array<uint32_t, 3> longest;  // of history, live and shared; 0 without
  std::array<LiveCursor, 2> live;
  std::array<const SharedIndex::Entry*, 2> shared;

  void clear() {
    best.fill(-1);
    says.fill(Calibration::kSilent);
    longest.fill(0);
  }
  void set(Context context, uint32_t length, int32_t token, float count, float of) {
    best[context] = token;
    total[context] = of;
    share[context] = share_of(count, of);
    kind[context] = Calibration::kind(context, length, of);
    says[context] = Calibration::says(kind[context], share[context]);
  }
  void set_live(Context context, const LiveIndex& index, const LiveCursor& at, uint32_t length,
                uint32_t own) {
    int32_t token;
    uint32_t count;
    if (at.length == 0 || !index.best_next(at, token, count)) return;
    live[context - kLive1] = at;
    set(context, length, token, static_cast<float>(count),
        static_cast<float>(std::max(index.count(at) - own, count)));
  }
};

// Where history stands while a draft is made: both contexts, how often they occurred and what follows them.
struct BlendPolicy::History {
  const FrozenIndex* index;
  HistoryContexts at;
  std::array<float, 2> totals;
  std::array<FrozenIndex::Next, 2> nexts;
  std::array<bool, 2> follows;

  void count() {
    totals[0] = index->occurrences(at.first).weight;
    totals[1] = 0;  // when it is looked at
  }
  // Finds what follows the longest match, which is shortened until something does; false without.
  bool look() {
    follows = {false, false};
    if (at.first.length == 0) return false;
    follows[0] = index->next(at.first, totals[0], nexts[0]);
    if (follows[0]) return true;
    index->shorten_to_continuation(at.first);
    if (at.first.length == 0) return false;
    at.second = at.first;
    index->shorten(at.second);
    count();
    return follows[0] = index->next(at.first, totals[0], nexts[0]);
  }
  // The same for the shorter one, as it is.
  bool look_shorter() {
    if (!follows[0] || at.second.length == 0) return false;
    if (totals[1] == 0) totals[1] = index->occurrences(at.second).weight;
    return follows[1] = index->next(at.second, totals[1], nexts[1]);
  }
  void advance(int32_t token, bool both) {
    if (!follows[0] || nexts[0].token != token) {
      at.advance(*index, std::span(&token, 1));
      count();
      return;
    }
    FrozenIndex::follow(at.first, nexts[0]);
    totals[0] = nexts[0].weight;
    if (!both) return;
    if (follows[1] && nexts[1].token == token) {
      FrozenIndex::follow(at.second, nexts[1]);
      totals[1] = nexts[1].weight;
    } else {
      index->advance(at.second, std::span(&token, 1));
      totals[1] = 0;  // counted when it is looked at
    }
    if (at.second.length > 0 && same_class(at.first, at.second)) {
      index->shorten(at.second);
      totals[1] = 0;
    }
  }
};

BlendPolicy::BlendPolicy(const BlendOptions& options) : options_(options) {
  calibration_.learns_weights = options.mixing;
  calibration_.learns_statements = options.calibrated;
}

// Asks for the longest context that the shared index knows and the next shorter one that occurred more often.
void BlendPolicy::ask_shared(const Request& request, const Draft& draft, Contexts& contexts) const {
  int32_t
      text[SharedIndex::kOrders];  // the last tokens of the response and of the draft; START is before them
  uint32_t length = 0;
  for (size_t i = draft.tokens.size(); i-- > 0 && length < SharedIndex::kOrders;) {
    text[SharedIndex::kOrders - ++length] = draft.tokens[i];
  }
  for (size_t i = request.response.size(); i-- > 0 && length < SharedIndex::kOrders;) {
    text[SharedIndex::kOrders - ++length] = request.response[i];
  }
  if (length < SharedIndex::kOrders) text[SharedIndex::kOrders - ++length] = kStartToken;
  const SharedIndex::Entry* entries[SharedIndex::kOrders];
  const uint32_t known = shared_.find(text + SharedIndex::kOrders, length, entries);
  contexts.longest[2] = known;
  const uint32_t most = options_.blending ? 2 : 1;
  float last = 0;
  uint32_t taken = 0;
  for (uint32_t i = known; i-- > 0 && taken < most;) {
    const SharedIndex::Entry& entry = *entries[i];
    if (entry.total <= last) continue;
    last = entry.total;
    contexts.shared[taken] = &entry;
    contexts.set(static_cast<Context>(kShared1 + taken), i + 1, entry.tokens[0], entry.counts[0],
                 entry.total);
    ++taken;
  }
}

// The likeliest token, as the mixer judges it, of the different ones that the contexts name, strongest first.
Judgement BlendPolicy::choose(const Request& request, const Contexts& contexts,
                              const History& history) const {
  static constexpr Context kOrders[2][kContexts] = {
      {kHistory1, kLive1, kHistory2, kLive2, kShared1, kShared2},
      {kLive1, kHistory1, kLive2, kHistory2, kShared1, kShared2}};
  const auto& order = kOrders[contexts.longest[1] > contexts.longest[0] ? 1 : 0];
  Judgement best;
  Judgement judgement;
  judgement.weights = Calibration::weights(contexts.longest[0], contexts.longest[1], contexts.longest[2]);
  int32_t tried[kChoices];
  uint32_t num = 0;
  for (const Context by : order) {
    const int32_t token = contexts.best[by];
    if (token < 0 || std::find(tried, tried + num, token) != tried + num) continue;
    judgement.token = token;
    for (uint32_t k = 0; k < kContexts; ++k) {
      if (contexts.best[k] == token || contexts.best[k] < 0) {
        judgement.says[k] = contexts.says[k];
        continue;
      }
      float count;
      if (k <= kHistory2) {
        count = history.index->weight_next(k == kHistory1 ? history.at.first : history.at.second, token);
      } else if (k <= kLive2) {
        count = static_cast<float>(request.live->count_next(contexts.live[k - kLive1], token));
      } else {
        count = contexts.shared[k - kShared1]->count(token);
      }
      judgement.says[k] = count > 0 ? Calibration::says(contexts.kind[k], share_of(count, contexts.total[k]))
                                    : Calibration::denies(contexts.kind[k], contexts.share[k]);
    }
    calibration_.mix(judgement);
    if (best.token < 0 || judgement.probability > best.probability) best = judgement;
    tried[num++] = token;
    if (num == kChoices || best.probability >= 0.5f) break;  // no other can be likelier
  }
  return best;
}

void BlendPolicy::draft(const Request& request, uint32_t horizon, float min_survival, Draft& draft,
                        Trail& trail) const {
  trail.clear();
  const bool both = options_.blending;
  History history;
  history.index = request.history;
  history.at = request.frozen;
  if (history.index != nullptr) history.count();
  LiveCursor live;
  if (request.live != nullptr) live = request.live->last(request.sequence);
  uint32_t own = 1;  // the request's own context occurs once more, with nothing after it yet
  uint32_t length =
      static_cast<uint32_t>(std::min<size_t>(request.response.size(), 1u << 30)) + 1;  // START too
  float survival = 1;
  for (uint32_t position = 0; position < horizon; ++position, ++length, own = 0) {
    Contexts contexts;
    contexts.clear();
    const HistoryContexts before = history.at;
    if (history.index != nullptr && history.look()) {
      contexts.longest[0] = history.at.first.length;
      contexts.set(kHistory1, history.at.first.length, history.nexts[0].token, history.nexts[0].weight,
                   history.totals[0]);
    }
    if (request.live != nullptr) {
      request.live->shorten_to_continuation(live);
      if (live.length > 0) contexts.longest[1] = std::min(live.length, length);
      contexts.set_live(kLive1, *request.live, live, contexts.longest[1], own);
    }
    // Where the longest matches agree and are believed, shorter contexts would not change the choice.
    Judgement chosen;
    const int32_t first = contexts.best[kHistory1] >= 0 ? contexts.best[kHistory1] : contexts.best[kLive1];
    if (first >= 0 && (contexts.best[kLive1] == first || contexts.best[kLive1] < 0)) {
      chosen.token = first;
      chosen.says = contexts.says;
      chosen.weights = Calibration::weights(contexts.longest[0], contexts.longest[1], Calibration::kUnasked);
      calibration_.mix(chosen);
    }
    if (chosen.token < 0 || chosen.probability < kSure) {
      if (both && history.index != nullptr && history.look_shorter()) {
        contexts.set(kHistory2, history.at.second.length, history.nexts[1].token, history.nexts[1].weight,
                     history.totals[1]);
      }
      if (both && request.live != nullptr) {
        LiveCursor shorter = live;
        request.live->shorten(shorter);
        contexts.set_live(kLive2, *request.live, shorter, shorter.length, own);
      }
      if (options_.shared) ask_shared(request, draft, contexts);
      chosen = choose(request, contexts, history);
    }
    if (chosen.token < 0) return;
    trail.push_back({chosen, before});
    survival *= chosen.probability;
    if (survival < min_survival) return;
    if (position == 0) {
      const bool by_live = contexts.longest[1] > contexts.longest[0];
      const bool by_history = contexts.longest[0] > 0;
      draft.source = by_live ? Source::kLive : by_history ? Source::kHistory : Source::kShared;
      draft.match_length = contexts.longest[by_live ? 1 : by_history ? 0 : 2];
    }
    draft.tokens.push_back(chosen.token);
    draft.probabilities.push_back(chosen.probability);
    draft.expected += survival;
    if (history.index != nullptr) history.advance(chosen.token, both);
    if (request.live != nullptr) request.live->advance(live, chosen.token);
  }
}

size_t BlendPolicy::learn(Trail& trail, std::span<const int32_t> tokens, HistoryContexts& contexts) {
  size_t foreseen = 0;
  while (foreseen < trail.size() && foreseen < tokens.size()) {
    const bool accepted = trail[foreseen].token == tokens[foreseen];
    calibration_.learn(trail[foreseen], accepted);
    if (!accepted) break;
    ++foreseen;
  }
  if (foreseen == trail.size() && foreseen > 0) --foreseen;  // where history stands after it was not kept
  if (foreseen > 0) contexts = trail[foreseen].before;
  trail.clear();
  return foreseen;
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
