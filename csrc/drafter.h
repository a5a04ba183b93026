// Every running request's cursors, and the one call per engine step that drafts for the whole batch.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "csrc/budget.h"
#include "csrc/correction.h"
#include "csrc/frozen_index.h"
#include "csrc/live_index.h"
#include "csrc/policy.h"
#include "csrc/policy_blend.h"
#include "csrc/sources.h"
#include "csrc/thread_pool.h"

namespace redraft {

class Held;

// Ragged drafts: row i is [offsets[i], offsets[i + 1]) of tokens and probabilities.
struct DraftBatch {
  std::vector<int32_t> tokens;
  std::vector<float> probabilities;
  std::vector<int32_t> offsets;
  std::vector<uint8_t> sources;
  std::vector<int32_t> match_lengths;
};

struct DraftStats {
  // [source * positions + position]: tokens drafted and accepted there, counted when the verdict is known.
  std::vector<int64_t> drafted;
  std::vector<int64_t> accepted;
  int64_t positions = 0;
  int64_t steps = 0;         // requests x engine steps that brought tokens
  int64_t emitted = 0;       // tokens brought
  int64_t live_dropped = 0;  // requests that lost their live source to its memory limit
};

// Thread-safe: a mutex makes every call exclusive. Holds what it refers to until a request is closed.
// A call that throws for its arguments or for limits has changed nothing; one that finds no memory may have
// changed a part.
class Drafter {
 public:
  // policy: null drafts the longest match of one source, as it is.
  Drafter(float min_survival, int num_threads, const BlendOptions* policy = nullptr);

  // How likely a token must be, with all before it, to be drafted; 0 to 1.
  void set_min_survival(float min_survival);
  // What the policy has learned, or the correction of the longest match. restore() wants what calibration()
  // gave.
  std::vector<float> calibration() const;
  void restore(std::span<const float> calibration);

  int32_t open(std::shared_ptr<LiveIndex> live, std::span<const int32_t> tokens,
               std::shared_ptr<const FrozenIndex> history);
  void set_history(int32_t request, std::shared_ptr<const FrozenIndex> history);
  void close(int32_t request);
  int64_t length(int32_t request) const;
  DraftBatch step(std::span<const int32_t> requests, std::span<const int32_t> tokens,
                  std::span<const int32_t> offsets, std::span<const int32_t> horizons, int64_t budget,
                  const StepCosts& costs = {});  // without costs the budget alone bounds
  DraftStats stats() const;
  int64_t num_requests() const;
  uint64_t nbytes() const;

 private:
  struct Request {
    bool open = false;
    bool live_open = false;
    uint8_t generation = 0;
    Source source = Source::kNone;  // of what was proposed last
    uint32_t sequence = 0;
    uint32_t drafted = 0;   // how many tokens that were
    FrozenCursor cursor;    // in the history
    SharedContext context;  // in the shared index
    Rejoin rejoin;          // the group's text that it departed from
    std::shared_ptr<LiveIndex> live;
    std::shared_ptr<const FrozenIndex> history;
    std::vector<int32_t> tokens;   // of the response so far: a history that comes late needs them
    BlendPolicy::Trail trail;      // what was proposed last, with a policy, and what was thought of it
    BlendPolicy::Verdict verdict;  // on that
    bool moved = false;            // another history came after that
    std::vector<Judged> judged;    // what was proposed and thought of the longest match; room for more
    uint32_t num_judged = 0;       // of these
  };

  // A step's requests, the tokens that they bring, and how many each may draft.
  struct Batch {
    std::span<Request* const> rows;
    std::span<const int32_t> tokens;
    std::span<const int32_t> offsets;
    std::span<const int32_t> horizons;

    std::span<const int32_t> added(size_t row) const {
      return tokens.subspan(offsets[row], offsets[row + 1] - offsets[row]);
    }
  };

  Request& find(int32_t request);
  const Request& find(int32_t request) const;
  std::vector<Request*> check_step(std::span<const int32_t> requests, std::span<const int32_t> tokens,
                                   std::span<const int32_t> offsets, std::span<const int32_t> horizons,
                                   int64_t budget);
  static void match_history(Request& request);
  void account(Request& request, std::span<const int32_t> tokens, Held& held);
  static bool accept(Request& request, std::span<const int32_t> tokens);
  void observe_all(const Batch& batch);
  void accept_all(const Batch& batch);
  void accept_shared(const Batch& batch);
  void record(const Request& request, size_t accepted);
  struct Scratch;
  static void promise(Request& request, Source source, Proposal& proposal, size_t row, Scratch& scratch,
                      DraftBatch& batch);
  void draft_rows(const Batch& batch, size_t begin, size_t end, Held& held, DraftBatch& drafts);
  DraftBatch draft_all(const Batch& batch);
  DraftBatch draft_shared(const Batch& batch);
  BlendPolicy::Draft draft_blended(Request& request, uint32_t horizon, Held& held);
  void allot(std::span<Request* const> rows, int64_t budget, const StepCosts& costs, DraftBatch& batch) const;

  float min_survival_;
  ThreadPool pool_;
  std::unique_ptr<BlendPolicy> policy_;
  Correction correction_;  // without a policy
  std::vector<Request> slots_;
  std::vector<uint32_t> free_slots_;
  DraftStats stats_;           // but that `drafted` and `accepted` count those that ended there
  std::vector<uint8_t> seen_;  // slots met in the step being checked
  mutable std::mutex mutex_;
};

}  // namespace redraft
