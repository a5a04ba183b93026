#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "csrc/suffix_array.h"
#include "tests/cpp/brute_force.h"

namespace redraft {
namespace {

template <typename Symbol>
void check(const std::vector<Symbol>& text, uint32_t alphabet) {
  std::vector<int32_t> order(text.size());
  sort_suffixes<Symbol>(text, alphabet, order, std::pmr::get_default_resource());
  std::vector<int32_t> expected(text.size());
  std::iota(expected.begin(), expected.end(), 0);
  std::sort(expected.begin(), expected.end(), [&](int32_t a, int32_t b) {
    return std::lexicographical_compare(text.begin() + a, text.end(), text.begin() + b, text.end());
  });
  ASSERT_EQ(order, expected);
}

TEST(SuffixArray, SortsEveryShortTextOverThreeSymbols) {
  for (uint32_t length = 1; length <= 8; ++length) {
    uint32_t number = 1;
    for (uint32_t i = 0; i < length; ++i) number *= 3;
    for (uint32_t code = 0; code < number; ++code) {
      std::vector<uint16_t> text;
      for (uint32_t rest = code, i = 0; i < length; ++i, rest /= 3) text.push_back(rest % 3);
      check(text, 3);
    }
  }
}

TEST(SuffixArray, SortsRandomAndRepetitiveTexts) {
  testing::Random random(1);
  for (int round = 0; round < 200; ++round) {
    const uint32_t alphabet = 1 + random.below(round % 2 ? 4 : 1000);
    std::vector<uint32_t> text(1 + random.below(400));
    for (uint32_t& symbol : text) symbol = random.below(alphabet);
    for (size_t i = text.size() / 2; i < text.size(); ++i) {
      if (round % 3 == 0) text[i] = text[i - text.size() / 2];
    }
    check(text, alphabet);
  }
}

}  // namespace
}  // namespace redraft
