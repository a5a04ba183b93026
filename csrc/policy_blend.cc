#include "csrc/policy_blend.h"

#include <algorithm>

namespace redraft {
namespace {

constexpr int32_t kStartToken = -1;

}  // namespace

// What the contexts say, and about which tokens.
struct BlendPolicy::Contexts {
  std::array<int32_t, kContexts> best;   // what came next most often; -1 without a context
  std::array<uint16_t, kContexts> says;  // about the best
  std::array<uint16_t, kContexts> kind;
  std::array<float, kContexts> share;  // of the best
  std::array<float, kContexts> total;
  std::array<uint32_t, 3> longest;  // of history, live and shared; 0 without
  std::array<LiveCursor, 2> live;
  std::array<const SharedIndex::Entry*, kContexts - kShared1> shared;
  Rejoin rejoin;

  void clear() {
    best.fill(-1);
    says.fill(Calibration::kSilent);
    longest.fill(0);
  }
  void set(Context context, uint32_t length, int32_t token, float count, float of) {
    set_kind(context, Calibration::kind(context, length, of), token, count, of);
  }
  void set_kind(Context context, uint16_t of_kind, int32_t token, float count, float of) {
    best[context] = token;
    total[context] = of;
    share[context] = count / of;
    kind[context] = of_kind;
    says[context] = Calibration::says(kind[context], share[context]);
  }
  // What the text goes on with that the request may rejoin.
  void set_rejoin(const LiveIndex& index) {
    int32_t token;
    uint32_t count;
    if (!rejoin.active() || !index.best_next(rejoin.at(), token, count)) return;
    const float of = static_cast<float>(std::max(index.count(rejoin.at()), count));
    set_kind(kRejoin, Calibration::kind_of_class(kRejoin, rejoin.kind(), of), token,
             static_cast<float>(count), of);
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

// Where history stands while a draft is made: the longest match, how often it occurred and what follows it.
struct BlendPolicy::History {
  const FrozenIndex* index = nullptr;
  FrozenCursor at;
  float total = 0;
  FrozenIndex::Next next;
  bool follows = false;

  void start(const FrozenIndex* history, const FrozenCursor& cursor) {
    index = history;
    at = cursor;
    if (index != nullptr) total = index->occurrences(at).weight;
  }
  // Finds what follows the longest match, which is shortened until something does; false without.
  bool look() {
    follows = false;
    if (at.length == 0) return false;
    if (!index->next(at, total, next)) {
      index->shorten_to_continuation(at);
      if (at.length == 0) return false;
      total = index->occurrences(at).weight;
      if (!index->next(at, total, next)) return false;
    }
    return follows = true;
  }
  void advance(int32_t token) {
    if (follows && next.token == token) {
      FrozenIndex::follow(at, next);
      total = next.weight;
    } else {
      index->advance(at, std::span(&token, 1));
      total = index->occurrences(at).weight;
    }
  }
};

BlendPolicy::BlendPolicy(const BlendOptions& options) : options_(options) {
  calibration_.learns_weights = options.mixing;
  calibration_.learns_statements = options.calibrated;
}

// What the longest matches of history and live say about a token that none of them contradicts.
inline void BlendPolicy::believe(const Contexts& contexts, int32_t token, Judgement& judgement) const {
  judgement.token = token;
  judgement.says = contexts.says;
  judgement.weights = Calibration::weights(contexts.longest[0], contexts.longest[1], Calibration::kUnasked);
  const float* weights = calibration_.weights_of(judgement.weights);
  judgement.probability = calibration_.squash(
      weights[kContexts] + weights[kHistory] * calibration_.evidence(contexts.says[kHistory]) +
      weights[kLive1] * calibration_.evidence(contexts.says[kLive1]));
}

// Asks for the longest context that the shared index knows, the next shorter one that occurred more often,
// and the sparse ones.
inline void BlendPolicy::ask_shared(const SharedContext& context, Contexts& contexts) const {
  const SharedIndex::Entry* entries[SharedIndex::kOrders];
  const uint32_t known = shared_.find(context, entries);
  contexts.longest[2] = known;
  const uint32_t most = options_.blending ? 2 : 1;
  float last = 0;
  uint32_t taken = 0;
  for (uint32_t i = known; i-- > 0 && taken < most;) {
    const SharedIndex::Entry& entry = *entries[i];
    if (entry.total <= last) continue;
    if (last >= kFew) break;
    last = entry.total;
    contexts.shared[taken] = &entry;
    contexts.set(static_cast<Context>(kShared1 + taken), i + 1, entry.tokens[0], entry.counts[0],
                 entry.total);
    ++taken;
  }
  if (!options_.sparse) return;
  for (uint32_t which = 0; which < SharedContext::kSparse; ++which) {
    const SharedIndex::Entry* const entry = shared_.find_sparse(context, which);
    if (entry == nullptr) continue;
    const auto by = static_cast<Context>(kSparse1 + which);
    contexts.shared[by - kShared1] = entry;
    contexts.set(by, 1, entry->tokens[0], entry->counts[0], entry->total);
  }
}

// The likeliest token, as the mixer judges it, of the different ones that the contexts name, strongest first.
inline void BlendPolicy::choose(const Request& request, const Contexts& contexts, const History& history,
                                Judgement& best) const {
  static constexpr Context kOrders[2][kContexts] = {
      {kHistory, kLive1, kRejoin, kLive2, kShared1, kShared2, kSparse1, kSparse2},
      {kLive1, kHistory, kRejoin, kLive2, kShared1, kShared2, kSparse1, kSparse2}};
  Context speak[kContexts];
  uint32_t speaking = 0;
  for (const Context by : kOrders[contexts.longest[1] > contexts.longest[0] ? 1 : 0]) {
    speak[speaking] = by;
    speaking += contexts.best[by] >= 0 ? 1 : 0;
  }
  best.token = -1;
  best.probability = 0;
  best.weights = Calibration::weights(contexts.longest[0], contexts.longest[1], contexts.longest[2]);
  const float* weights = calibration_.weights_of(best.weights);
  const auto says_about = [&](Context k, int32_t token) {
    float count = 0;
    if (!(contexts.share[k] < 1)) {  // nothing else came
    } else if (k == kHistory) {
      count = history.index->weight_next(history.at, token);
    } else if (k <= kLive2) {
      count = static_cast<float>(request.live->count_next(contexts.live[k - kLive1], token));
    } else if (k == kRejoin) {
      count = static_cast<float>(request.live->count_next(contexts.rejoin.at(), token));
    } else {
      count = contexts.shared[k - kShared1]->count(token);
    }
    return count > 0 ? Calibration::says(contexts.kind[k], count / contexts.total[k])
                     : Calibration::denies(contexts.kind[k], contexts.share[k]);
  };
  int32_t tried[kChoices] = {-1, -1, -1};
  uint32_t num = 0;
  for (uint32_t i = 0; i < speaking; ++i) {
    const int32_t token = contexts.best[speak[i]];
    if (token == tried[0] || token == tried[1]) continue;
    std::array<uint16_t, kContexts> says = contexts.says;
    float sum = weights[kContexts];
    for (uint32_t j = 0; j < speaking; ++j) {
      const Context k = speak[j];
      if (contexts.best[k] != token) says[k] = says_about(k, token);
      sum += weights[k] * calibration_.evidence(says[k]);
    }
    const float probability = calibration_.squash(sum);
    if (probability > best.probability) {
      best.token = token;
      best.probability = probability;
      best.says = says;
    }
    tried[num++] = token;
    if (num == kChoices || best.probability >= 0.5f) break;  // no other can be likelier
  }
}

BlendPolicy::Draft BlendPolicy::draft(const Request& request, uint32_t horizon, float min_survival,
                                      Trail& trail) const {
  Draft draft;
  trail.clear();
  History history;
  history.start(request.history, request.frozen);
  SharedContext shared = request.shared;
  LiveCursor live;
  if (request.live != nullptr) live = request.live->last(request.sequence);
  uint32_t own = 1;  // the request's own context occurs once more, with nothing after it yet
  uint32_t length = request.length + 1;  // START too
  float survival = 1;
  Contexts contexts;
  contexts.rejoin = request.rejoin;
  for (uint32_t position = 0; position < horizon; ++position, ++length, own = 0) {
    contexts.clear();
    if (history.look()) {
      contexts.longest[0] = history.at.length;
      contexts.set(kHistory, history.at.length, history.next.token, history.next.weight, history.total);
    }
    if (request.live != nullptr) {
      request.live->shorten_to_continuation(live);
      if (live.length > 0) contexts.longest[1] = std::min(live.length, length);
      contexts.set_live(kLive1, *request.live, live, contexts.longest[1], own);
    }
    // Where the longest matches agree and are believed, shorter contexts would not change the choice; where
    // the token would not be drafted whatever those say, they are not asked either.
    const int32_t first = contexts.best[kHistory] >= 0 ? contexts.best[kHistory] : contexts.best[kLive1];
    bool asks = true;
    Judged& chosen = trail.emplace_back(history.at, live);
    chosen.expected = contexts.best[kLive1];
    if (first >= 0 && (contexts.best[kLive1] == first || contexts.best[kLive1] < 0)) {
      believe(contexts, first, chosen);
      const float odds = kRaised * chosen.probability;
      asks = chosen.probability < kSure && survival * odds >= min_survival * (1 - chosen.probability + odds);
    } else if (survival * kSure < min_survival) {
      break;
    }
    if (asks) {
      if (request.live != nullptr) contexts.set_rejoin(*request.live);
      if (options_.blending && contexts.best[kLive1] >= 0 && contexts.total[kLive1] < kFew) {
        LiveCursor shorter = live;
        request.live->shorten(shorter);
        contexts.set_live(kLive2, *request.live, shorter, shorter.length, own);
      }
      if (options_.shared) ask_shared(shared, contexts);
      choose(request, contexts, history, chosen);
      if (chosen.token < 0) break;
    }
    survival *= chosen.probability;
    if (survival < min_survival) return draft;
    if (position == 0) {
      const bool by_history = contexts.longest[0] > 0 && contexts.longest[0] >= contexts.longest[1];
      // Without any longest match the text that may be rejoined may still be what tells; it is the group's.
      const bool by_live = !by_history && (contexts.longest[1] > 0 || contexts.best[kRejoin] == chosen.token);
      draft.source = by_live ? Source::kLive : by_history ? Source::kHistory : Source::kShared;
      draft.match_length = contexts.longest[by_live ? 1 : by_history ? 0 : 2];
    }
    draft.size = position + 1;
    if (draft.size == horizon) return draft;
    if (request.history != nullptr) history.advance(chosen.token);
    if (request.live != nullptr) {
      if (contexts.rejoin.active()) contexts.rejoin.move(*request.live, chosen.token);
      if (contexts.best[kLive1] == chosen.token) {
        request.live->follow_best(live);
      } else {
        request.live->advance(live, chosen.token);
      }
    }
    if (options_.shared) shared.push(chosen.token);
  }
  return draft;
}

void BlendPolicy::follow(const Trail& trail, std::span<const int32_t> tokens, const LiveIndex& live,
                         Rejoin& rejoin) const {
  if (!options_.rejoin) return;
  size_t known = trail.size();  // what was drafted after a token that did not come is about another text
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (rejoin.active()) rejoin.move(live, tokens[i]);
    if (i >= known) continue;
    const Judged& judged = trail[i];
    if (!rejoin.active() && judged.expected >= 0 && judged.expected != tokens[i]) {
      rejoin.depart(live, judged.live, tokens[i]);
    }
    if (judged.token != tokens[i]) known = 0;
  }
}

BlendPolicy::Verdict BlendPolicy::learn(Trail& trail, std::span<const int32_t> tokens, FrozenCursor& cursor) {
  Verdict verdict;
  size_t& foreseen = verdict.foreseen;
  const size_t known = std::min(trail.size(), tokens.size());
  while (foreseen < known) {
    const Judged& judged = trail[foreseen];
    if (judged.token < 0) break;
    const bool accepted = judged.token == tokens[foreseen];
    calibration_.learn(judged, accepted);
    if (!accepted) break;
    const bool sure = judged.probability >= kSure && Calibration::is_unasked(judged.weights);
    if (sure && foreseen < 64) verdict.sure |= uint64_t{1} << foreseen;
    ++foreseen;
  }
  if (foreseen == trail.size() && foreseen > 0) --foreseen;  // where history stands after it was not kept
  if (foreseen > 0) cursor = trail[foreseen].history;
  trail.clear();
  return verdict;
}

SharedContext BlendPolicy::start() {
  SharedContext context;
  context.push(kStartToken);
  return context;
}

void BlendPolicy::observe(SharedContext& context, std::span<const int32_t> tokens, uint64_t sure) {
  if (!options_.shared) return;
  for (const int32_t token : tokens) {
    if ((sure & 1) == 0) shared_.add(context, token);
    sure >>= 1;
    context.push(token);
  }
  shared_.prefetch(context);  // the next draft asks
}

}  // namespace redraft
