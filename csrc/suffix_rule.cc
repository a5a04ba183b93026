#include "csrc/suffix_rule.h"

#include <algorithm>

namespace redraft {

SuffixDraft draft_by_suffix_rule(const LiveIndex& index, uint32_t sequence, const SuffixRule& rule) {
  SuffixDraft best;
  std::vector<int32_t> tokens;
  std::vector<double> scores;  // of a draft of so many tokens
  if (rule.depth < 2) return best;
  const auto most = [&](uint32_t length) {
    const double wanted = std::min<double>(static_cast<double>(length) * rule.factor, rule.horizon);
    return std::min(static_cast<uint32_t>(wanted), rule.depth - length);
  };
  for (LiveCursor at = index.last(sequence); at.length > 0;) {
    LiveCursor shorter = at;
    index.shorten(shorter);
    const uint32_t longest = std::min(at.length, rule.depth - 1);
    if (longest > shorter.length && index.count(at) >= 2) {
      uint32_t wanted = 0;
      for (uint32_t length = shorter.length + 1; length <= longest; ++length) {
        wanted = std::max(wanted, most(length));
      }
      tokens.clear();
      scores.assign(1, 0.0);
      LiveCursor cursor = at;
      index.shorten_to_continuation(cursor);
      double survival = 1;
      if (wanted > 0) {
        index.walk(cursor, [&](const LiveIndex::Step& step) {
          survival *= static_cast<double>(step.count) / step.total;
          if (survival < rule.min_probability) return false;
          tokens.push_back(step.token);
          scores.push_back(scores.back() + survival);
          return tokens.size() < wanted;
        });
      }
      for (uint32_t length = longest; length > shorter.length; --length) {
        const size_t kept = std::min<size_t>(most(length), tokens.size());
        if (kept > 0 && scores[kept] >= best.score) {
          best.score = scores[kept];
          best.tokens.assign(tokens.begin(), tokens.begin() + static_cast<int64_t>(kept));
        }
      }
    }
    at = shorter;
  }
  return best;
}

}  // namespace redraft
