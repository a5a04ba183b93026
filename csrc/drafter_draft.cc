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

// Appends rows [begin, end) of the batch.
void Drafter::draft_rows(std::span<Request* const> rows, std::span<const int32_t> horizons, size_t begin,
                         size_t end, DraftBatch& batch) {
  Held held;
  Scratch scratch;
  auto& [history, live, num_tokens] = scratch;
  batch.sources.assign(end - begin, static_cast<uint8_t>(Source::kNone));
  batch.match_lengths.assign(end - begin, 0);
  const size_t before = batch.offsets.size();
  batch.offsets.resize(before + (end - begin));
  int32_t* offset = batch.offsets.data() + before;
  for (size_t row = begin; row < end; ++row) {
    Request& request = *rows[row];
    const DraftLimits limits{static_cast<uint32_t>(horizons[row]), min_survival_};
    if (policy_) {
      BlendPolicy::Draft draft;
      if (limits.horizon > 0) draft = draft_blended(request, limits.horizon, held);
      const size_t at = num_tokens;
      num_tokens += draft.size;
      scratch.make_room(batch);
      for (uint32_t i = 0; i < draft.size; ++i) {
        batch.tokens[at + i] = request.trail[i].token;
        batch.probabilities[at + i] = request.trail[i].probability;
      }
      batch.sources[row - begin] = static_cast<uint8_t>(draft.source);
      batch.match_lengths[row - begin] = static_cast<int32_t>(draft.match_length);
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
              batch);
    }
    *offset++ = static_cast<int32_t>(num_tokens);
  }
  batch.tokens.resize(num_tokens);
  batch.probabilities.resize(num_tokens);
}

DraftBatch Drafter::draft_all(std::span<Request* const> rows, std::span<const int32_t> horizons) {
  const size_t parts = static_cast<size_t>(pool_.size());
  std::vector<DraftBatch> drafted(parts);
  const auto part = [&](int number) {
    DraftBatch& batch = drafted[number];
    const size_t begin = rows.size() * number / parts;
    const size_t end = rows.size() * (number + 1) / parts;
    batch.offsets.reserve(end - begin + 1);
    batch.tokens.reserve((end - begin) * 8);
    batch.probabilities.reserve((end - begin) * 8);
    if (number == 0) batch.offsets.push_back(0);
    draft_rows(rows, horizons, begin, end, batch);
  };
  if (parts == 1) {
    part(0);
  } else {
    pool_.run(part);
  }
  DraftBatch& batch = drafted[0];
  for (size_t number = 1; number < parts; ++number) {
    const DraftBatch& more = drafted[number];
    const int32_t first = static_cast<int32_t>(batch.tokens.size());
    for (const int32_t offset : more.offsets) batch.offsets.push_back(first + offset);
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    append(batch.tokens, more.tokens);
    append(batch.probabilities, more.probabilities);
    append(batch.sources, more.sources);
    append(batch.match_lengths, more.match_lengths);
  }
  return std::move(batch);
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
  }
  return policy_->draft(context, horizon, min_survival_, request.trail);
}

}  // namespace redraft
