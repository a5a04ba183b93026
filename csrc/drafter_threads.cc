// A batch large enough to be shared between threads. What comes out doesn't depend on who does what: the
// requests of a live index are brought up to date by one thread, in their order, and drafts are made when all
// are.
#include <algorithm>
#include <atomic>
#include <unordered_map>

#include "csrc/drafter.h"
#include "csrc/held.h"

namespace redraft {
namespace {

constexpr size_t kChunk = 32;  // rows that a thread takes at a time to draft for

// The rows of each live index, in their order.
std::vector<std::vector<uint32_t>> rows_by_live(const std::vector<const LiveIndex*>& lives) {
  std::vector<std::vector<uint32_t>> groups;
  std::unordered_map<const LiveIndex*, size_t> numbers;
  size_t number = 0;
  for (uint32_t row = 0; row < lives.size(); ++row) {
    if (row == 0 || lives[row] != lives[row - 1]) {  // siblings stand side by side in most batches
      number = numbers.try_emplace(lives[row], groups.size()).first->second;
      if (number == groups.size()) groups.emplace_back();
    }
    groups[number].push_back(row);
  }
  return groups;
}

std::vector<const LiveIndex*> lives_of(auto rows) {
  std::vector<const LiveIndex*> lives;
  lives.reserve(rows.size());
  for (const auto* request : rows) lives.push_back(request->live.get());
  return lives;
}

}  // namespace

void Drafter::accept_shared(const Batch& batch) {
  const std::vector<std::vector<uint32_t>> groups = rows_by_live(lives_of(batch.rows));
  std::atomic<bool> observed{policy_ == nullptr};
  std::atomic<size_t> next{0};
  std::atomic<int64_t> dropped{0};
  pool_.run([&] {
    if (!observed.exchange(true)) observe_all(batch);  // the shared index is for one thread: whoever is first
    for (size_t group; (group = next++) < groups.size();) {
      Held held;
      held.hold(*batch.rows[groups[group][0]]->live);
      for (const uint32_t row : groups[group]) {
        if (accept(*batch.rows[row], batch.added(row))) ++dropped;
      }
    }
  });
  stats_.live_dropped += dropped;
}

DraftBatch Drafter::draft_shared(const Batch& batch) {
  const AllHeld all(lives_of(batch.rows));
  const size_t size = batch.rows.size();
  std::vector<DraftBatch> drafted((size + kChunk - 1) / kChunk);
  std::atomic<size_t> next{0};
  pool_.run([&] {
    Held held = Held::by_another();
    for (size_t chunk; (chunk = next++) < drafted.size();) {
      const size_t begin = chunk * kChunk;
      draft_rows(batch, begin, std::min(size, begin + kChunk), held, drafted[chunk]);
    }
  });
  DraftBatch drafts;
  drafts.offsets.reserve(size + 1);
  drafts.offsets.push_back(0);
  for (const DraftBatch& more : drafted) {
    const int32_t first = static_cast<int32_t>(drafts.tokens.size());
    for (const int32_t end : more.offsets) drafts.offsets.push_back(first + end);
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    append(drafts.tokens, more.tokens);
    append(drafts.probabilities, more.probabilities);
    append(drafts.sources, more.sources);
    append(drafts.match_lengths, more.match_lengths);
  }
  return drafts;
}

}  // namespace redraft
