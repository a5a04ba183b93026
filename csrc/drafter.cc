#include "csrc/drafter.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "csrc/error.h"
#include "csrc/held.h"

namespace redraft {
namespace {

// A handle is a slot and the slot's generation, so that a closed request's handle is not taken for its
// successor.
constexpr uint32_t kSlotBits = 23;
constexpr uint32_t kSlotMask = (1u << kSlotBits) - 1;

// What a request holds at once, so that most steps allocate nothing.
constexpr size_t kUsualTokens = 256;
// Requests of a step from which on threads share it.
constexpr size_t kShared = 64;
// Requests ahead whose contexts in the shared index are asked for.
constexpr size_t kAhead = 4;

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
    free_slots_.reserve(slots_.size() + 1);  // so that either both grow or neither
    slots_.emplace_back();
    free_slots_.push_back(static_cast<uint32_t>(slots_.size() - 1));
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
  self.tokens.reserve(std::max(tokens.size(), kUsualTokens));
  self.tokens.assign(tokens.begin(), tokens.end());
  if (!policy_) self.judged.resize(Proposal::kUsual + 1);
  self.drafted = 0;
  self.trail.clear();
  self.moved = false;
  self.num_judged = 0;
  self.context = BlendPolicy::start();
  self.rejoin = {};
  if (policy_) policy_->observe(self.context, tokens, 0);
  match_history(self);
  return static_cast<int32_t>(static_cast<uint32_t>(self.generation) << kSlotBits | slot);
}

void Drafter::match_history(Request& request) {
  request.cursor = {};
  if (!request.history) return;
  request.cursor = request.history->start();
  request.history->advance(request.cursor, request.tokens);
}

void Drafter::set_history(int32_t request, std::shared_ptr<const FrozenIndex> history) {
  // The index it replaces is dropped after the lock: its buffer's owner may need Python's.
  const std::lock_guard lock(mutex_);
  Request& self = find(request);
  self.history.swap(history);
  self.moved = true;
  match_history(self);
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
    bytes += request.tokens.capacity() * 4 + request.trail.capacity() * sizeof(BlendPolicy::Judged) +
             request.judged.capacity() * sizeof(Judged);
  }
  if (policy_) bytes += policy_->nbytes();
  return bytes;
}

DraftStats Drafter::stats() const {
  const std::lock_guard lock(mutex_);
  DraftStats stats = stats_;
  for (std::vector<int64_t>* counts : {&stats.drafted, &stats.accepted}) {
    for (int64_t source = 0; source < kNumSources; ++source) {
      // What ended at a position was at all before it too.
      for (int64_t i = (source + 1) * stats.positions - 1; i > source * stats.positions; --i) {
        (*counts)[i - 1] += (*counts)[i];
      }
    }
  }
  return stats;
}

// Returns the requests.
std::vector<Drafter::Request*> Drafter::check_step(std::span<const int32_t> requests,
                                                   std::span<const int32_t> tokens,
                                                   std::span<const int32_t> offsets,
                                                   std::span<const int32_t> horizons, int64_t budget) {
  if (offsets.size() != requests.size() + 1) throw_invalid("offsets: must hold one entry more than requests");
  if (horizons.size() != requests.size()) throw_invalid("horizons: must hold one entry for each request");
  if (budget < -1) throw_invalid("budget: must be >= 0, or -1 for no bound");
  if (offsets.front() != 0) throw_invalid("offsets: must start with 0");
  // Of many values at once, most often all are right.
  bool wrong = false;
  for (size_t i = 0; i < requests.size(); ++i) {
    wrong |= offsets[i + 1] < offsets[i];
    wrong |= horizons[i] < 0;
  }
  for (size_t i = 0; wrong && i < requests.size(); ++i) {
    if (offsets[i + 1] < offsets[i]) throw_invalid("offsets: must not fall, at " + std::to_string(i + 1));
    if (horizons[i] < 0) throw_invalid("horizons: must be >= 0, at " + std::to_string(i));
  }
  if (static_cast<size_t>(offsets.back()) != tokens.size()) {
    throw_invalid("offsets: must end with the number of new_token_ids, " + std::to_string(tokens.size()));
  }
  int32_t signs = 0;
  for (const int32_t token : tokens) signs |= token;
  if (signs < 0) {
    const auto negative = std::find_if(tokens.begin(), tokens.end(), [](int32_t token) { return token < 0; });
    throw_invalid("new_token_ids: negative id at " + std::to_string(negative - tokens.begin()));
  }
  seen_.assign(slots_.size(), 0);
  std::vector<Request*> rows;
  rows.reserve(requests.size());
  for (const int32_t request : requests) {
    rows.push_back(&find(request));
    if (seen_[static_cast<uint32_t>(request) & kSlotMask]++) {
      throw_invalid("requests: " + std::to_string(request) + " is named twice");
    }
  }
  return rows;
}

// Counts what became of the last draft, of which so many tokens were accepted.
void Drafter::record(const Request& request, size_t accepted) {
  const size_t length = request.drafted;
  if (length == 0) return;
  const int64_t positions = stats_.positions;
  const int64_t wider = static_cast<int64_t>(length);
  if (wider > positions) {
    const auto widen = [&](const std::vector<int64_t>& counts) {
      std::vector<int64_t> moved(kNumSources * length, 0);
      for (int64_t source = 0; source < kNumSources; ++source) {
        std::copy_n(counts.begin() + source * positions, positions, moved.begin() + source * wider);
      }
      return moved;
    };
    std::vector<int64_t> drafted = widen(stats_.drafted);
    stats_.accepted = widen(stats_.accepted);
    stats_.drafted = std::move(drafted);
    stats_.positions = wider;
  }
  const size_t row = static_cast<size_t>(request.source) * static_cast<size_t>(stats_.positions);
  ++stats_.drafted[row + length - 1];
  if (accepted > 0) ++stats_.accepted[row + accepted - 1];
}

// The engine's verdict on the last draft: the new tokens repeat what was accepted of it.
void Drafter::account(Request& request, std::span<const int32_t> tokens, Held& held) {
  size_t accepted = 0;
  if (policy_) {
    const size_t known = std::min<size_t>(request.drafted, tokens.size());
    while (accepted < known && request.trail[accepted].token == tokens[accepted]) ++accepted;
    if (request.live_open) {
      held.hold(*request.live);
      policy_->follow(request.trail, tokens, *request.live, request.rejoin);
    }
    FrozenCursor old;  // what the trail knows of
    request.verdict = policy_->learn(request.trail, tokens, request.moved ? old : request.cursor);
    if (request.moved) request.verdict.foreseen = 0;
    request.moved = false;
  } else if (!tokens.empty()) {
    const size_t right = correction_.learn({request.judged.data(), request.num_judged}, tokens);
    accepted = std::min<size_t>(request.drafted, right);
  }
  if (!tokens.empty()) {
    ++stats_.steps;
    record(request, accepted);
  }
  request.num_judged = 0;
  request.drafted = 0;
  request.source = Source::kNone;
}

// Threads may accept for requests of different live indexes at the same time; the caller holds the index's
// guard. True when the live source was lost.
bool Drafter::accept(Request& request, std::span<const int32_t> tokens) {
  request.tokens.insert(request.tokens.end(), tokens.begin(), tokens.end());
  if (request.history) {
    request.history->advance(request.cursor, tokens.subspan(request.verdict.foreseen));
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

void Drafter::observe_all(const Batch& batch) {
  for (size_t row = 0; row < batch.rows.size(); ++row) {
    Request& request = *batch.rows[row];
    if (row + kAhead < batch.rows.size()) policy_->prefetch(batch.rows[row + kAhead]->context);
    policy_->observe(request.context, batch.added(row), request.verdict.sure);
  }
}

void Drafter::accept_all(const Batch& batch) {
  if (policy_) observe_all(batch);
  Held held;
  for (size_t row = 0; row < batch.rows.size(); ++row) {
    Request& request = *batch.rows[row];
    held.hold(*request.live);
    if (row + 1 < batch.rows.size() && batch.rows[row + 1]->live == request.live) {
      request.live->prefetch(batch.rows[row + 1]->sequence);
    }
    if (accept(request, batch.added(row))) ++stats_.live_dropped;
  }
}

DraftBatch Drafter::step(std::span<const int32_t> requests, std::span<const int32_t> tokens,
                         std::span<const int32_t> offsets, std::span<const int32_t> horizons, int64_t budget,
                         const StepCosts& costs) {
  const std::lock_guard lock(mutex_);
  const std::vector<Request*> rows = check_step(requests, tokens, offsets, horizons, budget);
  if (!costs.draft_tokens.empty()) check_costs(costs);
  const Batch batch{rows, tokens, offsets, horizons};
  const bool share = pool_.size() > 1 && rows.size() >= kShared;
  if (share) pool_.wake();
  // All tokens go in before anything is drafted: what a sibling wrote in this very step already helps.
  {
    Held held;
    for (size_t row = 0; row < rows.size(); ++row) account(*rows[row], batch.added(row), held);
  }
  stats_.emitted += static_cast<int64_t>(tokens.size());
  share ? accept_shared(batch) : accept_all(batch);
  DraftBatch drafts = share ? draft_shared(batch) : draft_all(batch);
  pool_.rest();
  allot(rows, budget, costs, drafts);
  for (size_t row = 0; row < rows.size(); ++row) {
    rows[row]->source = static_cast<Source>(drafts.sources[row]);
    rows[row]->drafted = static_cast<uint32_t>(drafts.offsets[row + 1] - drafts.offsets[row]);
  }
  return drafts;
}

}  // namespace redraft
