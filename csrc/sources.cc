#include "csrc/sources.h"

#include <algorithm>
#include <chrono>

namespace redraft {
namespace {

// Fills a proposal; what changes with every token stays in registers.
class Proposer {
 public:
  Proposer(Proposal& proposal, const DraftLimits& limits) : proposal_(proposal), limits_(limits) {
    make_room();
  }
  ~Proposer() {
    proposal_.size = size_;
    proposal_.expected = expected_;
  }
  // Adds a token unless its survival is too low; false when the draft has ended.
  bool add(int32_t token, float probability) {
    survival_ *= probability;
    if (survival_ < limits_.min_survival) return false;
    if (size_ == room_) make_room();
    tokens_[size_++] = {token, probability};
    expected_ += survival_;
    return size_ < limits_.horizon;
  }

 private:
  void make_room() {
    proposal_.tokens.resize(std::max<size_t>(proposal_.tokens.size(), 2 * size_t{size_}));
    tokens_ = proposal_.tokens.data();
    room_ = static_cast<uint32_t>(proposal_.tokens.size());
  }

  Proposal& proposal_;
  const DraftLimits limits_;
  Proposal::Token* tokens_;
  uint32_t room_;
  uint32_t size_ = 0;
  float survival_ = 1;
  float expected_ = 0;
};

}  // namespace

void propose_from_history(const FrozenIndex& history, FrozenCursor cursor, const DraftLimits& limits,
                          Proposal& proposal) {
  Proposer proposer(proposal, limits);
  uint32_t length = 0;
  history.walk(cursor, [&](uint32_t matched, int32_t token, float ratio, uint32_t count) {
    if (length == 0) proposal.match_length = length = matched;
    // A damaged index may say anything, and what is learned from it would stay.
    const float share = ratio > 0 ? std::min(ratio, 1.0f) : 0.0f;
    const float probability = acceptance(Source::kHistory, length++, share, static_cast<float>(count));
    return proposer.add(token, probability);
  });
}

void propose_from_live(const LiveIndex& live, uint32_t sequence, const DraftLimits& limits,
                       Proposal& proposal) {
  const LiveCursor cursor = live.cursor(sequence);
  if (cursor.length == 0) return;
  proposal.match_length = cursor.length;
  Proposer proposer(proposal, limits);
  uint32_t length = cursor.length;
  uint32_t own = 1;  // the request's own context occurs once more, with nothing after it yet
  live.walk(cursor, [&](const LiveIndex::Step& step) {
    const uint32_t total = std::max(step.total - own, step.count);
    own = 0;
    const float occurrences = static_cast<float>(total);
    const float ratio = total == step.count ? 1.0f : static_cast<float>(step.count) / occurrences;
    return proposer.add(step.token, acceptance(Source::kLive, length++, ratio, occurrences));
  });
}

std::vector<double> time_drafts(const FrozenIndex& history, std::span<const int32_t> tokens,
                                std::span<const int64_t> offsets, const DraftLimits& limits) {
  using Clock = std::chrono::steady_clock;
  struct Request {
    std::span<const int32_t> text;
    FrozenCursor cursor;
    size_t at = 0;
    Proposal draft;
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
      while (emitted < request.draft.size && request.at + emitted + 1 < request.text.size() &&
             request.text[request.at + emitted] == request.draft.tokens[emitted].token) {
        ++emitted;
      }
      const auto accepted = request.text.subspan(request.at, emitted + 1);
      request.at += accepted.size();
      const auto start = Clock::now();
      history.advance(request.cursor, accepted);
      request.draft.clear();
      propose_from_history(history, request.cursor, limits, request.draft);
      seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
  }
  return seconds;
}

}  // namespace redraft
