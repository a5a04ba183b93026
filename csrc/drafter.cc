#include "csrc/drafter.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <unordered_map>
#include <utility>

#include "csrc/error.h"

namespace redraft {
namespace {

// A handle is a slot and the slot's generation, so that a closed request's handle is not taken for its
// successor.
constexpr uint32_t kSlotBits = 23;
constexpr uint32_t kSlotMask = (1u << kSlotBits) - 1;

// Holds the guard of one live index at a time; siblings stand side by side in most batches.
class Held {
 public:
  void hold(const LiveIndex& live) {
    if (&live == live_) return;
    guard_ = {};
    guard_ = live.guard();
    live_ = &live;
  }

 private:
  const LiveIndex* live_ = nullptr;
  std::unique_lock<std::mutex> guard_;
};

}  // namespace

Drafter::Drafter(float min_survival, int num_threads, const BlendOptions* policy)
    : min_survival_(min_survival), pool_(std::clamp(num_threads, 1, 256)) {
  if (!(min_survival >= 0 && min_survival <= 1)) throw_invalid("min_survival: must be from 0 to 1");
  if (num_threads < 1) throw_invalid("num_threads: must be >= 1");
  if (policy != nullptr) policy_ = std::make_unique<BlendPolicy>(*policy);
}

void Drafter::set_min_survival(float min_survival) {
  if (!(min_survival >= 0 && min_survival <= 1)) throw_invalid("min_survival: must be from 0 to 1");
  const std::lock_guard lock(mutex_);
  min_survival_ = min_survival;
}

std::vector<float> Drafter::calibration() const {
  const std::lock_guard lock(mutex_);
  return policy_ ? policy_->calibration().state() : correction_.state();
}

void Drafter::restore(std::span<const float> calibration) {
  const std::lock_guard lock(mutex_);
  if (policy_) {
    policy_->calibration().restore(calibration);
  } else {
    correction_.restore(calibration);
  }
}

const Drafter::Request& Drafter::find(int32_t request) const {
  const uint32_t slot = static_cast<uint32_t>(request) & kSlotMask;
  if (request < 0 || slot >= slots_.size() || !slots_[slot].open ||
      slots_[slot].generation != static_cast<uint32_t>(request) >> kSlotBits) {
    throw Error(ErrorCode::kNotFound, "request: " + std::to_string(request) + " is unknown or closed");
  }
  return slots_[slot];
}

Drafter::Request& Drafter::find(int32_t request) {
  return const_cast<Request&>(static_cast<const Drafter*>(this)->find(request));
}

int32_t Drafter::open(std::shared_ptr<LiveIndex> live, std::span<const int32_t> tokens,
                      std::shared_ptr<const FrozenIndex> history) {
  const std::lock_guard lock(mutex_);
  if (free_slots_.empty() && slots_.size() > kSlotMask) {
    throw Error(ErrorCode::kResourceExhausted, "request: too many are open; close finished ones");
  }
  uint32_t sequence;
  {
    const auto guard = live->guard();
    sequence = live->add_sequence(tokens);
  }
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  Request& self = slots_[slot];
  self.open = true;
  self.live_open = true;
  self.source = Source::kNone;
  self.sequence = sequence;
  self.live = std::move(live);
  self.history = std::move(history);
  self.tokens.assign(tokens.begin(), tokens.end());
  self.draft.clear();
  self.trail.clear();
  self.judged.clear();
  if (policy_) policy_->observe(self.tokens, self.tokens.size());
  if (self.history) {
    self.contexts.start(*self.history, self.tokens);
  }
  return static_cast<int32_t>(static_cast<uint32_t>(self.generation) << kSlotBits | slot);
}

void Drafter::set_history(int32_t request, std::shared_ptr<const FrozenIndex> history) {
  // The index it replaces is dropped after the lock: its buffer's owner may need Python's.
  const std::lock_guard lock(mutex_);
  Request& self = find(request);
  self.history.swap(history);
  self.contexts = {};
  if (self.history) {
    self.contexts.start(*self.history, self.tokens);
  }
}

void Drafter::close(int32_t request) {
  Request closed;  // dropped after the lock, as above
  const std::lock_guard lock(mutex_);
  Request& self = find(request);
  if (self.live_open) {
    const auto guard = self.live->guard();
    if (self.live->is_open(self.sequence)) self.live->end_sequence(self.sequence);
  }
  const uint8_t generation = self.generation;
  std::swap(self, closed);
  self.generation = static_cast<uint8_t>(generation + 1);
  free_slots_.push_back(static_cast<uint32_t>(request) & kSlotMask);
}

int64_t Drafter::length(int32_t request) const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(find(request).tokens.size());
}

int64_t Drafter::num_requests() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(slots_.size() - free_slots_.size());
}

uint64_t Drafter::nbytes() const {
  const std::lock_guard lock(mutex_);
  uint64_t bytes = sizeof(*this) + slots_.capacity() * sizeof(Request) + free_slots_.capacity() * 4 +
                   seen_.capacity() + (stats_.drafted.capacity() + stats_.accepted.capacity()) * 8;
  for (const Request& request : slots_) {
    bytes += (request.tokens.capacity() + request.draft.capacity()) * 4 +
             request.trail.capacity() * sizeof(Judgement) + request.judged.capacity() * sizeof(Judged);
  }
  if (policy_) bytes += policy_->nbytes();
  return bytes;
}

DraftStats Drafter::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Drafter::check_step(std::span<const int32_t> requests, std::span<const int32_t> tokens,
                         std::span<const int32_t> offsets, std::span<const int32_t> horizons,
                         int64_t budget) const {
  if (offsets.size() != requests.size() + 1) throw_invalid("offsets: must hold one entry more than requests");
  if (horizons.size() != requests.size()) throw_invalid("horizons: must hold one entry for each request");
  if (budget < -1) throw_invalid("budget: must be >= 0, or -1 for no bound");
  if (offsets.front() != 0) throw_invalid("offsets: must start with 0");
  for (size_t i = 0; i < requests.size(); ++i) {
    if (offsets[i + 1] < offsets[i]) throw_invalid("offsets: must not fall, at " + std::to_string(i + 1));
    if (horizons[i] < 0) throw_invalid("horizons: must be >= 0, at " + std::to_string(i));
  }
  if (static_cast<size_t>(offsets.back()) != tokens.size()) {
    throw_invalid("offsets: must end with the number of new_token_ids, " + std::to_string(tokens.size()));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) throw_invalid("new_token_ids: negative id at " + std::to_string(i));
  }
  seen_.assign(slots_.size(), 0);
  for (const int32_t request : requests) {
    find(request);
    if (seen_[static_cast<uint32_t>(request) & kSlotMask]++) {
      throw_invalid("requests: " + std::to_string(request) + " is named twice");
    }
  }
}

// The engine's verdict on the last draft: the new tokens repeat what was accepted of it.
void Drafter::account(Request& request, std::span<const int32_t> tokens) {
  if (!tokens.empty()) {
    ++stats_.steps;
    stats_.emitted += static_cast<int64_t>(tokens.size());
    const int64_t length = static_cast<int64_t>(request.draft.size());
    if (length > stats_.positions) {
      for (std::vector<int64_t>* counts : {&stats_.drafted, &stats_.accepted}) {
        std::vector<int64_t> wider(kNumSources * length, 0);
        for (int64_t source = 0; source < kNumSources; ++source) {
          std::copy_n(counts->begin() + source * stats_.positions, stats_.positions,
                      wider.begin() + source * length);
        }
        counts->swap(wider);
      }
      stats_.positions = length;
    }
    const int64_t row = static_cast<int64_t>(request.source) * stats_.positions;
    bool accepted = true;
    for (int64_t i = 0; i < length; ++i) {
      accepted = accepted && i < static_cast<int64_t>(tokens.size()) && tokens[i] == request.draft[i];
      ++stats_.drafted[row + i];
      stats_.accepted[row + i] += accepted ? 1 : 0;
    }
  }
  if (policy_) {
    policy_->learn(request.trail, tokens);
  } else if (!tokens.empty()) {
    correction_.learn(request.judged, tokens);
  }
  request.judged.clear();
  request.draft.clear();
  request.source = Source::kNone;
}

// Threads may accept for requests of different live indexes at the same time; the caller holds the index's
// guard. True when the live source was lost.
bool Drafter::accept(Request& request, std::span<const int32_t> tokens) const {
  if (request.history && policy_) {
    request.contexts.advance(*request.history, tokens);
  } else if (request.history) {  // the longest match is all that is looked at
    request.history->advance(request.contexts.first, tokens);
  }
  if (!request.live_open) return false;
  const bool open = request.live->is_open(request.sequence);
  if (open && (tokens.empty() || request.live->has_room(tokens.size()))) {
    request.live->append_checked(request.sequence, tokens);  // as step() checked them
    return false;
  }
  // From here on this request drafts from its history alone.
  if (open) request.live->end_sequence(request.sequence);
  request.live_open = false;
  return true;
}

void Drafter::accept_all(std::span<Request* const> rows, std::span<const int32_t> tokens,
                         std::span<const int32_t> offsets) {
  const auto added = [&](size_t row) {
    return tokens.subspan(offsets[row], offsets[row + 1] - offsets[row]);
  };
  for (size_t row = 0; row < rows.size(); ++row) {
    std::vector<int32_t>& text = rows[row]->tokens;
    text.insert(text.end(), added(row).begin(), added(row).end());
    if (policy_) policy_->observe(text, added(row).size());
  }
  // One thread takes all requests of a live index, in the order of rows: so the result does not depend on
  // threads.
  std::vector<int> thread_of(rows.size(), 0);
  if (pool_.size() > 1) {
    std::unordered_map<const LiveIndex*, int> threads;
    for (size_t row = 0; row < rows.size(); ++row) {
      const int next = static_cast<int>(threads.size()) % pool_.size();
      thread_of[row] = threads.try_emplace(rows[row]->live.get(), next).first->second;
    }
  }
  std::atomic<int64_t> dropped{0};
  pool_.run([&](int thread) {
    Held held;
    for (size_t row = 0; row < rows.size(); ++row) {
      if (thread_of[row] != thread) continue;
      held.hold(*rows[row]->live);
      if (row + 1 < rows.size() && rows[row + 1]->live == rows[row]->live) {
        rows[row + 1]->live->prefetch(rows[row + 1]->sequence);
      }
      if (accept(*rows[row], added(row))) ++dropped;
    }
  });
  stats_.live_dropped += dropped;
}

// Appends rows [begin, end) of the batch.
void Drafter::draft_rows(std::span<Request* const> rows, std::span<const int32_t> horizons, size_t begin,
                         size_t end, DraftBatch& batch) {
  Held held;
  Draft history;
  Draft live;
  for (size_t row = begin; row < end; ++row) {
    Request& request = *rows[row];
    const DraftLimits limits{static_cast<uint32_t>(horizons[row]), min_survival_};
    history.clear();
    live.clear();
    if (limits.horizon > 0 && policy_) {
      draft_blended(request, limits.horizon, live);
    } else if (limits.horizon > 0) {
      if (request.history) draft_from_history(*request.history, request.contexts.first, limits, history);
      if (request.live_open) {
        held.hold(*request.live);
        draft_from_live(*request.live, request.sequence, limits, live);
      }
    }
    const Draft& draft = history.expected > live.expected ? history : live;
    const bool drafted = !draft.tokens.empty();
    batch.tokens.insert(batch.tokens.end(), draft.tokens.begin(), draft.tokens.end());
    batch.probabilities.insert(batch.probabilities.end(), draft.probabilities.begin(),
                               draft.probabilities.end());
    batch.offsets.push_back(static_cast<int32_t>(batch.tokens.size()));
    batch.sources.push_back(static_cast<uint8_t>(drafted ? draft.source : Source::kNone));
    batch.match_lengths.push_back(drafted ? static_cast<int32_t>(draft.match_length) : 0);
  }
}

DraftBatch Drafter::draft_all(std::span<Request* const> rows, std::span<const int32_t> horizons) {
  const size_t parts = static_cast<size_t>(pool_.size());
  std::vector<DraftBatch> drafted(parts);
  const auto part = [&](int number) {
    DraftBatch& batch = drafted[number];
    const size_t begin = rows.size() * number / parts;
    const size_t end = rows.size() * (number + 1) / parts;
    batch.offsets.reserve(end - begin + 1);
    batch.sources.reserve(end - begin);
    batch.match_lengths.reserve(end - begin);
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

void Drafter::draft_blended(Request& request, uint32_t horizon, Draft& draft) {
  Held held;
  BlendPolicy::Context context;
  context.history = request.history.get();
  context.frozen = request.contexts;
  context.response = request.tokens;
  if (request.live_open) {
    held.hold(*request.live);
    context.live = request.live.get();
    context.sequence = request.sequence;
  }
  policy_->draft(context, horizon, min_survival_, draft, request.trail);
}

DraftBatch Drafter::step(std::span<const int32_t> requests, std::span<const int32_t> tokens,
                         std::span<const int32_t> offsets, std::span<const int32_t> horizons, int64_t budget,
                         const StepCosts& costs) {
  const std::lock_guard lock(mutex_);
  check_step(requests, tokens, offsets, horizons, budget);
  if (!costs.draft_tokens.empty()) check_costs(costs);
  std::vector<Request*> rows;
  rows.reserve(requests.size());
  for (const int32_t request : requests) rows.push_back(&slots_[static_cast<uint32_t>(request) & kSlotMask]);
  // All tokens go in before anything is drafted: what a sibling wrote in this very step already helps.
  for (size_t row = 0; row < rows.size(); ++row) {
    account(*rows[row], tokens.subspan(offsets[row], offsets[row + 1] - offsets[row]));
  }
  accept_all(rows, tokens, offsets);
  DraftBatch batch = draft_all(rows, horizons);
  allot(rows, budget, costs, batch);
  for (size_t row = 0; row < rows.size(); ++row) {
    rows[row]->source = static_cast<Source>(batch.sources[row]);
    rows[row]->draft.assign(batch.tokens.begin() + batch.offsets[row],
                            batch.tokens.begin() + batch.offsets[row + 1]);
  }
  return batch;
}

}  // namespace redraft
