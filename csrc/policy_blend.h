// Which token comes next, and how surely: what the contexts of every source say, weighed by what was learned.
//
// Ideas from data compression: longest and shorter contexts speak as in PPM (Cleary and Witten 1984); what
// they say is mixed in the logistic domain with weights chosen by match lengths and learned online, as in PAQ
// (Mahoney 2005).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/calibration.h"
#include "csrc/frozen_index.h"
#include "csrc/live_index.h"
#include "csrc/policy.h"
#include "csrc/policy_shared.h"

namespace redraft {

// Which ingredients take part; all of them by default. For ablations.
struct BlendOptions {
  bool shared = true;      // the bounded index over all prompts
  bool mixing = true;      // weights that are learned; else those of the start
  bool calibrated = true;  // how far to trust a context is learned; else it is as at the start
  bool blending = true;    // shorter contexts below the longest match of each source
};

// A request's two longest contexts in its history: the second is the longest that occurs more often. It moves
// along with the first, as finding it anew means to read the first one's label again.
struct HistoryContexts {
  FrozenCursor first;
  FrozenCursor second;

  void start(const FrozenIndex& history, std::span<const int32_t> tokens);
  void advance(const FrozenIndex& history, std::span<const int32_t> tokens);
};

// Several threads may draft at the same time; learn() and observe() want to be alone.
class BlendPolicy {
 public:
  explicit BlendPolicy(const BlendOptions& options);

  struct Request {
    const FrozenIndex* history = nullptr;  // null without
    HistoryContexts frozen;
    const LiveIndex* live = nullptr;  // null without; its guard is held by the caller
    uint32_t sequence = 0;
    std::span<const int32_t> response;  // all tokens so far
  };
  // What was thought of a token, and where history stood before it.
  struct Judged : Judgement {
    HistoryContexts before;
  };
  // Of each drafted token, and of one more that was not drafted, until the verdict comes.
  using Trail = std::vector<Judged>;

  // Drafts up to `horizon` tokens while survival is at least `min_survival`.
  void draft(const Request& request, uint32_t horizon, float min_survival, Draft& draft, Trail& trail) const;
  // Learns from the tokens that came where `trail` was drafted, and clears it. With a history, moves
  // `contexts` along those that were foreseen; returns how many.
  size_t learn(Trail& trail, std::span<const int32_t> tokens, HistoryContexts& contexts);
  // Adds the last `added` tokens of a response to the shared index.
  void observe(std::span<const int32_t> response, size_t added);

  Calibration& calibration() { return calibration_; }
  uint64_t nbytes() const { return sizeof(*this) + shared_.nbytes() + calibration_.nbytes(); }

 private:
  static constexpr uint32_t kChoices = 3;  // different tokens compared
  static constexpr float kSure = 0.8f;     // probability from which the shared index is not asked

  struct Contexts;
  struct History;
  void ask_shared(const Request& request, const Draft& draft, Contexts& contexts) const;
  Judgement choose(const Request& request, const Contexts& contexts, const History& history) const;

  BlendOptions options_;
  Calibration calibration_;
  SharedIndex shared_;
  std::vector<int32_t> text_;  // scratch of observe()
};

}  // namespace redraft
