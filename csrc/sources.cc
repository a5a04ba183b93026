#include "csrc/sources.h"

#include <algorithm>
#include <chrono>

namespace redraft {
namespace {

// Fills a proposal; what changes with every token stays in registers.
class Proposer {
 public:
  Proposer(Source source, const DraftLimits& limits, const Correction& correction, Proposal& proposal)
      : source_(static_cast<uint8_t>(source)),
        min_survival_(limits.min_survival),
        horizon_(limits.horizon),
        correction_(correction),
        proposal_(proposal) {
    find_room(0);
  }
  ~Proposer() {
    proposal_.size = size();
    proposal_.num_judged = size() + ended_;
    proposal_.expected = expected_;
  }
  // Adds a token unless its survival is too low; false when the draft has ended. It follows a context of
  // `length` tokens.
  bool add(uint32_t length, int32_t token, float estimate) {
    const uint16_t slot = Correction::slot(source_, length, estimate);
    const float probability = correction_.correct(slot, estimate);
    *next_ = {token, estimate, probability, slot};
    survival_ *= probability;
    if (survival_ < min_survival_) {
      ended_ = true;
      return false;
    }
    expected_ += survival_;
    return ++next_ != end_ || grow();
  }

 private:
  uint32_t size() const { return static_cast<uint32_t>(next_ - proposal_.tokens.data()); }
  void find_room(uint32_t size) {
    Judged* const tokens = proposal_.tokens.data();
    next_ = tokens + size;
    end_ = tokens + std::min<size_t>(proposal_.tokens.size() - 1, horizon_);
  }
  [[gnu::noinline]] bool grow() {
    const uint32_t size = this->size();
    if (size == horizon_) return false;
    proposal_.tokens.resize(2 * size_t{size} + 1);
    find_room(size);
    return true;
  }

  const uint8_t source_;
  const float min_survival_;
  const uint32_t horizon_;
  const Correction& correction_;
  Proposal& proposal_;
  Judged* next_;
  Judged* end_;         // of the room, or of the draft
  bool ended_ = false;  // by a token that was not worth it
  float survival_ = 1;
  float expected_ = 0;
};

}  // namespace

void propose_from_history(const FrozenIndex& history, FrozenCursor cursor, const DraftLimits& limits,
                          const Correction& correction, Proposal& proposal) {
  Proposer proposer(Source::kHistory, limits, correction, proposal);
  proposal.match_length =
      history.walk(cursor, [&](uint32_t length, int32_t token, float ratio, uint32_t count) {
        return proposer.add(length, token, acceptance(length, ratio, static_cast<float>(count)));
      });
}

void propose_from_live(const LiveIndex& live, uint32_t sequence, const DraftLimits& limits,
                       const Correction& correction, Proposal& proposal) {
  const LiveCursor cursor = live.cursor(sequence);
  if (cursor.length == 0) return;
  proposal.match_length = cursor.length;
  Proposer proposer(Source::kLive, limits, correction, proposal);
  uint32_t length = cursor.length;
  uint32_t own = 1;  // the request's own context occurs once more, with nothing after it yet
  live.walk(cursor, [&](const LiveIndex::Step& step) {
    const uint32_t total = std::max(step.total - own, step.count);
    own = 0;
    const float occurrences = static_cast<float>(total);
    const float ratio = total == step.count ? 1.0f : static_cast<float>(step.count) / occurrences;
    const uint32_t context = length++;
    return proposer.add(context, step.token, acceptance(context, ratio, occurrences));
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
  const Correction correction;
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
      propose_from_history(history, request.cursor, limits, correction, request.draft);
      seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
  }
  return seconds;
}

}  // namespace redraft
