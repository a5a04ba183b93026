// The shared index: what followed the last few tokens, whatever the prompt. For text that all prompts share.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace redraft {

// A table of bounded size: contexts of 1 to kOrders tokens, each with its most frequent continuations. A
// context is entered when the one shorter by a token is known, so that one-off text takes little room, and
// what is rarely met makes room for what is met now. Not thread-safe.
class SharedIndex {
 public:
  static constexpr uint32_t kOrders = 6;
  static constexpr uint32_t kNexts = 5;

  struct Entry {
    uint32_t tag = 0;  // 0 when free
    float total = 0;
    // The most frequent continuation comes first.
    std::array<int32_t, kNexts> tokens{};
    std::array<float, kNexts> counts{};

    float count(int32_t token) const;
  };

  // The entries of the contexts of 1, 2, ... tokens that end before `end`, of which `length` may be read;
  // returns how many, up to the first that is unknown. Pointers hold until the next add().
  uint32_t find(const int32_t* end, uint32_t length, const Entry** entries) const;
  // Says that `token` came after those contexts.
  void add(const int32_t* end, uint32_t length, int32_t token);

  uint64_t nbytes() const { return entries_.capacity() * sizeof(Entry); }

 private:
  static constexpr uint32_t kFirstBits = 10;
  static constexpr uint32_t kMostBits = 20;  // 48 MiB

  void grow();

  std::vector<Entry> entries_ = std::vector<Entry>(size_t{1} << kFirstBits);
  size_t used_ = 0;
};

}  // namespace redraft
