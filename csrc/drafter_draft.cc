// What is proposed for each request of a batch.
#include <algorithm>
#include <utility>

#include "csrc/drafter.h"
#include "csrc/held.h"

namespace redraft {

// What drafting a row needs, kept from row to row. While rows are added the batch's arrays of tokens may be
// longer than what is in them.
struct Drafter::Scratch {
  Proposal history;
  Proposal live;
  size_t num_tokens = 0;  // in the batch

  void make_room(DraftBatch& batch) const {
    if (num_tokens <= batch.tokens.size()) return;
    batch.tokens.resize(2 * num_tokens);
    batch.probabilities.resize(2 * num_tokens);
  }
};

// Appends a proposal to the batch, as its row `row`. The request remembers what it will learn from: its draft
// and one token more, which the bonus token judges; so what is not worth drafting now is still known when it
// becomes so.
void Drafter::promise(Request& request, Source source, Proposal& proposal, size_t row, Scratch& scratch,
                      DraftBatch& batch) {
  const uint32_t size = proposal.size;
  const size_t at = scratch.num_tokens;
  scratch.num_tokens += size;
  scratch.make_room(batch);
  const Judged* const judged = proposal.tokens.data();
  int32_t* const tokens = batch.tokens.data() + at;
  float* const probabilities = batch.probabilities.data() + at;
  for (uint32_t i = 0; i < size; ++i) {
    tokens[i] = judged[i].token;
    probabilities[i] = judged[i].probability;
  }
  request.judged.swap(proposal.tokens);
  request.num_judged = proposal.num_judged;
  if (size == 0) return;
  batch.sources[row] = static_cast<uint8_t>(source);
  batch.match_lengths[row] = static_cast<int32_t>(proposal.match_length);
}

// Drafts for rows [begin, end), into an empty batch. Its offsets may begin with a 0, to which each row adds
// its end.
void Drafter::draft_rows(const Batch& batch, size_t begin, size_t end, Held& held, DraftBatch& drafts) {
  Scratch scratch;
  auto& [history, live, num_tokens] = scratch;
  drafts.sources.assign(end - begin, static_cast<uint8_t>(Source::kNone));
  drafts.match_lengths.assign(end - begin, 0);
  const size_t before = drafts.offsets.size();
  drafts.offsets.resize(before + (end - begin));
  int32_t* offset = drafts.offsets.data() + before;
  for (size_t row = begin; row < end; ++row) {
    Request& request = *batch.rows[row];
    const DraftLimits limits{static_cast<uint32_t>(batch.horizons[row]), min_survival_};
    if (policy_) {
      BlendPolicy::Draft draft;
      if (limits.horizon > 0) draft = draft_blended(request, limits.horizon, held);
      const size_t at = num_tokens;
      num_tokens += draft.size;
      scratch.make_room(drafts);
      for (uint32_t i = 0; i < draft.size; ++i) {
        drafts.tokens[at + i] = request.trail[i].token;
        drafts.probabilities[at + i] = request.trail[i].probability;
      }
      drafts.sources[row - begin] = static_cast<uint8_t>(draft.source);
      drafts.match_lengths[row - begin] = static_cast<int32_t>(draft.match_length);
    } else {
      history.clear();
      live.clear();
      if (limits.horizon > 0) {
        if (request.history) {
          propose_from_history(*request.history, request.cursor, limits, correction_, history);
        }
        if (request.live_open) {
          held.hold(*request.live);
          propose_from_live(*request.live, request.sequence, limits, correction_, live);
        }
      }
      const bool old = history.expected > live.expected;
      promise(request, old ? Source::kHistory : Source::kLive, old ? history : live, row - begin, scratch,
              drafts);
    }
    *offset++ = static_cast<int32_t>(num_tokens);
  }
  drafts.tokens.resize(num_tokens);
  drafts.probabilities.resize(num_tokens);
}

DraftBatch Drafter::draft_all(const Batch& batch) {
  DraftBatch drafts;
  const size_t size = batch.rows.size();
  drafts.offsets.reserve(size + 1);
  drafts.tokens.reserve(size * 8);
  drafts.probabilities.reserve(size * 8);
  drafts.offsets.push_back(0);
  Held held;
  draft_rows(batch, 0, size, held, drafts);
  return drafts;
}

BlendPolicy::Draft Drafter::draft_blended(Request& request, uint32_t horizon, Held& held) {
  BlendPolicy::Request context;
  context.history = request.history.get();
  context.frozen = request.cursor;
  context.length = static_cast<uint32_t>(std::min<size_t>(request.tokens.size(), 1u << 30));
  context.shared = request.context;
  if (request.live_open) {
    held.hold(*request.live);
    context.live = request.live.get();
    context.sequence = request.sequence;
    context.rejoin = request.rejoin;
  }
  return policy_->draft(context, horizon, min_survival_, request.trail);
}

}  // namespace redraft
