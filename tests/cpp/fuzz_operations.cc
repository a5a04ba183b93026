// libFuzzer target: any bytes as a sequence of operations on a drafter, its live index and its histories.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "csrc/drafter.h"
#include "csrc/error.h"
#include "csrc/frozen_builder.h"

using redraft::Drafter;
using redraft::FrozenIndex;
using redraft::LiveIndex;
using Tokens = std::vector<int32_t>;

namespace {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t next() { return empty() ? 0 : data_[at_++]; }
  Tokens tokens(uint8_t longest) {
    Tokens list(next() % (longest + 1));
    for (int32_t& token : list) token = next() % 6;
    return list;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

void require(bool condition) {
  if (!condition) std::abort();
}

std::shared_ptr<FrozenIndex> freeze(Bytes& bytes) {
  Tokens flat;
  std::vector<int64_t> offsets{0};
  std::vector<float> weights;
  for (int responses = bytes.next() % 4; responses >= 0; --responses) {
    const Tokens response = bytes.tokens(20);
    flat.insert(flat.end(), response.begin(), response.end());
    offsets.push_back(static_cast<int64_t>(flat.size()));
    weights.push_back(static_cast<float>(bytes.next() % 5) / 2);
  }
  if (bytes.next() % 2) weights.clear();
  return std::make_shared<FrozenIndex>(redraft::build_frozen(flat, offsets, weights, 0));
}

void operate(Bytes bytes, const redraft::BlendOptions* policy) {
  Drafter drafter(0.0f, 1, policy);
  auto live =
      std::make_shared<LiveIndex>(bytes.tokens(8), bytes.next() % 2 ? 0 : 40'000, 1 + bytes.next() % 8);
  std::shared_ptr<FrozenIndex> history;
  Tokens open;
  while (!bytes.empty()) {
    try {
      switch (bytes.next() % 6) {
        case 0:
          open.push_back(drafter.open(live, bytes.tokens(6), bytes.next() % 2 ? history : nullptr));
          break;
        case 1:
          drafter.close(bytes.next() % 2 || open.empty() ? bytes.next() : open.back());
          break;
        case 2:
          history = freeze(bytes);
          break;
        case 3:
          drafter.set_history(open.empty() ? 0 : open[bytes.next() % open.size()], history);
          break;
        default: {
          Tokens requests;
          Tokens tokens;
          Tokens offsets{0};
          Tokens horizons;
          for (const int32_t request : open) {
            const Tokens added = bytes.tokens(5);
            requests.push_back(request);
            tokens.insert(tokens.end(), added.begin(), added.end());
            offsets.push_back(static_cast<int32_t>(tokens.size()));
            horizons.push_back(bytes.next() % 20);
          }
          const int64_t budget = static_cast<int64_t>(bytes.next() % 30) - 1;
          const auto batch = drafter.step(requests, tokens, offsets, horizons, budget);
          require(batch.offsets.size() == requests.size() + 1);
          require(batch.tokens.size() == static_cast<size_t>(batch.offsets.back()));
          require(budget < 0 || batch.tokens.size() <= static_cast<size_t>(budget));
          for (size_t i = 0; i < requests.size(); ++i) {
            require(batch.offsets[i + 1] - batch.offsets[i] <= horizons[i]);
          }
        }
      }
    } catch (const redraft::Error&) {  // refused, and nothing has changed
      if (!open.empty() && bytes.next() % 4 == 0) open.pop_back();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const redraft::BlendOptions blend;
  operate({data, size}, nullptr);
  operate({data, size}, &blend);
  return 0;
}
