#include "csrc/sources.h"

#include <algorithm>
#include <chrono>

namespace redraft {
namespace {

// Adds a token unless its survival is too low; false when the draft has ended.
inline bool extend(Draft& draft, float& survival, int32_t token, float probability,
                   const DraftLimits& limits) {
  survival *= probability;
  if (survival < limits.min_survival) return false;
  draft.tokens.push_back(token);
  draft.probabilities.push_back(probability);
  draft.expected += survival;
  return draft.tokens.size() < limits.horizon;
}

}  // namespace

void draft_from_history(const FrozenIndex& history, FrozenCursor cursor, const DraftLimits& limits,
                        Draft& draft) {
  history.shorten_to_continuation(cursor);
  if (cursor.length == 0) return;
  draft.source = Source::kHistory;
  draft.match_length = cursor.length;
  float survival = 1;
  uint32_t length = cursor.length;
  history.walk(cursor, [&](const FrozenIndex::Piece& piece) {
    float ratio = piece.ratio;
    float count = static_cast<float>(piece.count);
    for (uint32_t i = 0; i < piece.symbols; ++i) {
      const int32_t token = history.token_at(piece.position + i);
      if (token < 0) return false;
      const float probability = acceptance(Source::kHistory, length, ratio, count);
      if (!extend(draft, survival, token, probability, limits)) return false;
      ++length;
      ratio = 1;
      count = static_cast<float>(piece.count_after);
    }
    return true;
  });
}

void draft_from_live(const LiveIndex& live, uint32_t sequence, const DraftLimits& limits, Draft& draft) {
  const LiveCursor cursor = live.cursor(sequence);
  if (cursor.length == 0) return;
  draft.source = Source::kLive;
  draft.match_length = cursor.length;
  float survival = 1;
  uint32_t length = cursor.length;
  uint32_t own = 1;  // the request's own context occurs once more, with nothing after it yet
  live.walk(cursor, [&](const LiveIndex::Step& step) {
    const float total = static_cast<float>(std::max(step.total - own, step.count));
    own = 0;
    const float ratio = static_cast<float>(step.count) / total;
    const float probability = acceptance(Source::kLive, length, ratio, total);
    ++length;
    return extend(draft, survival, step.token, probability, limits);
  });
}

std::vector<double> time_drafts(const FrozenIndex& history, std::span<const int32_t> tokens,
                                std::span<const int64_t> offsets, const DraftLimits& limits) {
  using Clock = std::chrono::steady_clock;
  struct Request {
    std::span<const int32_t> text;
    FrozenCursor cursor;
    size_t at = 0;
    Draft draft;
  };
  std::vector<Request> requests;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    requests.push_back({tokens.subspan(offsets[i], offsets[i + 1] - offsets[i]), history.start(), 0, {}});
  }
  std::vector<double> seconds;
  for (bool running = true; running;) {
    running = false;
    for (Request& request : requests) {
      if (request.at == request.text.size()) continue;
      running = true;
      size_t emitted = 0;
      for (const int32_t token : request.draft.tokens) {
        if (request.at + emitted + 1 >= request.text.size() || request.text[request.at + emitted] != token)
          break;
        ++emitted;
      }
      const auto accepted = request.text.subspan(request.at, emitted + 1);
      request.at += accepted.size();
      const auto start = Clock::now();
      history.advance(request.cursor, accepted);
      request.draft.clear();
      draft_from_history(history, request.cursor, limits, request.draft);
      seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
  }
  return seconds;
}

}  // namespace redraft
