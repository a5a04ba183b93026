// Which token comes next, and how surely: what the contexts of every source say, weighed by what was learned.
//
// Ideas from data compression: longest and shorter contexts speak as in PPM (Cleary and Witten 1984); what
// they say is mixed in the logistic domain with weights chosen by match lengths and learned online, as in PAQ
// (Mahoney 2005). So are sparse contexts (policy_shared.h) and the text that may be rejoined (rejoin.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "csrc/calibration.h"
#include "csrc/frozen_index.h"
#include "csrc/live_index.h"
#include "csrc/policy.h"
#include "csrc/policy_shared.h"
#include "csrc/rejoin.h"

namespace redraft {

// Which ingredients take part; all of them by default. For ablations.
struct BlendOptions {
  bool shared = true;      // the bounded index over all prompts
  bool mixing = true;      // weights that are learned; else those of the start
  bool calibrated = true;  // how far to trust a context is learned; else it is as at the start
  bool blending = true;    // shorter contexts below the longest match of a source
  bool sparse = true;      // contexts that leave tokens out, of the shared index
  bool rejoin = true;      // the group's text that a response has departed from
};

// Several threads may draft at the same time; learn() and observe() want to be alone.
class BlendPolicy {
 public:
  explicit BlendPolicy(const BlendOptions& options);

  struct Request {
    const FrozenIndex* history = nullptr;  // null without
    FrozenCursor frozen;
    const LiveIndex* live = nullptr;  // null without; its guard is held by the caller
    uint32_t sequence = 0;
    uint32_t length = 0;   // tokens of the response so far
    SharedContext shared;  // its end
    Rejoin rejoin;
  };
  // What was thought of a token, or of none when its `token` is -1, where the longest matches stood before
  // it, and what the group's was expected to go on with; -1 for nothing.
  struct Judged : Judgement {
    Judged(const FrozenCursor& in_history, const LiveCursor& in_live) : history(in_history), live(in_live) {}
    FrozenCursor history;
    LiveCursor live;
    int32_t expected = -1;
  };
  // Of each drafted token, and of one more that was not drafted, until the verdict comes.
  using Trail = std::vector<Judged>;

  struct Draft {
    uint32_t size = 0;  // tokens: the first of the trail
    Source source = Source::kNone;
    uint32_t match_length = 0;
  };
  // Drafts up to `horizon` tokens while survival is at least `min_survival`.
  Draft draft(const Request& request, uint32_t horizon, float min_survival, Trail& trail) const;

  // Takes note of a text that the request departs from by the tokens that came where `trail` was drafted, or
  // comes back to. The live index's guard is held by the caller.
  void follow(const Trail& trail, std::span<const int32_t> tokens, const LiveIndex& live,
              Rejoin& rejoin) const;

  struct Verdict {
    size_t foreseen = 0;  // tokens that `cursor` has taken in
    uint64_t sure = 0;    // bit by bit, which of the first tokens nobody had to be asked about
  };
  // Learns from the tokens that came where `trail` was drafted, and clears it. Moves `cursor`, in the
  // history, along those that were foreseen.
  Verdict learn(Trail& trail, std::span<const int32_t> tokens, FrozenCursor& cursor);
  // Adds the tokens that came after `context` to the shared index, but the `sure` ones, and moves it on.
  void observe(SharedContext& context, std::span<const int32_t> tokens, uint64_t sure);
  // Asks for what observe() will need.
  [[gnu::always_inline]] void prefetch(const SharedContext& context) const { shared_.prefetch(context); }
  // A response's beginning.
  static SharedContext start();

  Calibration& calibration() { return calibration_; }
  uint64_t nbytes() const { return sizeof(*this) + shared_.nbytes() + calibration_.nbytes(); }

 private:
  static constexpr uint32_t kChoices = 3;  // different tokens compared
  static constexpr float kSure = 0.75f;    // probability from which only the longest matches are asked
  static constexpr float kRaised = 1.5f;   // odds that the others may give, over those of the longest matches

  static constexpr float kFew = 6;  // occurrences from which on a shorter context has nothing to add

  struct Contexts;
  struct History;
  void believe(const Contexts& contexts, int32_t token, Judgement& judgement) const;
  void ask_shared(const SharedContext& context, Contexts& contexts) const;
  void choose(const Request& request, const Contexts& contexts, const History& history,
              Judgement& best) const;

  BlendOptions options_;
  Calibration calibration_;
  SharedIndex shared_;
};

}  // namespace redraft
