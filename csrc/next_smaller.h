// Searches an array for the next small entry.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

namespace redraft {

// Finds the next entry at or below a bound, by minima of 64, 64^2 and 64^3 entries.
class NextSmaller {
 public:
  NextSmaller(std::span<const uint32_t> values, std::pmr::memory_resource* memory)
      : values_(values), minima_{Level(memory), Level(memory), Level(memory)} {
    std::span<const uint32_t> below = values;
    for (Level& level : minima_) {
      level.resize((below.size() + 63) / 64);
      for (size_t block = 0; block < level.size(); ++block) {
        const auto part = below.subspan(block * 64, std::min<size_t>(64, below.size() - block * 64));
        level[block] = *std::min_element(part.begin(), part.end());
      }
      below = level;
    }
  }

  // The first index >= from whose value is <= bound; there must be one.
  uint32_t find(uint32_t from, uint32_t bound) const {
    int level = -1;
    uint32_t at = from;
    while (true) {  // climb while whole blocks are above the bound
      const std::span<const uint32_t> row = this->row(level);
      const uint32_t stop = level == 2 ? static_cast<uint32_t>(row.size()) : (at | 63) + 1;
      while (at < stop && row[at] > bound) ++at;
      if (at < stop) break;
      at >>= 6;
      ++level;
    }
    while (level >= 0) {  // descend into the first block that holds one
      --level;
      at <<= 6;
      const std::span<const uint32_t> row = this->row(level);
      while (row[at] > bound) ++at;
    }
    return at;
  }

 private:
  using Level = std::pmr::vector<uint32_t>;
  std::span<const uint32_t> row(int level) const {
    return level < 0 ? values_ : std::span<const uint32_t>(minima_[level]);
  }
  std::span<const uint32_t> values_;
  std::array<Level, 3> minima_;
};

}  // namespace redraft
