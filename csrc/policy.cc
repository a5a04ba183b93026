#include "csrc/policy.h"

#include <algorithm>

namespace redraft {

void share_out(std::span<const float> probabilities, std::span<const int32_t> offsets, int64_t budget,
               std::span<int32_t> lengths) {
  struct Token {
    float survival;
    int32_t row;
  };
  std::vector<Token> tokens;
  tokens.reserve(probabilities.size());
  for (size_t row = 0; row < lengths.size(); ++row) {
    float survival = 1;
    for (int32_t i = offsets[row]; i < offsets[row + 1]; ++i) {
      survival *= probabilities[i];
      tokens.push_back({survival, static_cast<int32_t>(row)});
    }
    lengths[row] = 0;
  }
  // Survival never rises within a row, so what is kept of a row is its beginning, in whatever order equals
  // come.
  const size_t kept = std::min<size_t>(tokens.size(), static_cast<size_t>(budget));
  if (kept < tokens.size()) {
    std::nth_element(tokens.begin(), tokens.begin() + kept, tokens.end(), [](const Token& a, const Token& b) {
      return a.survival != b.survival ? a.survival > b.survival : a.row < b.row;
    });
  }
  for (size_t i = 0; i < kept; ++i) ++lengths[tokens[i].row];
}

}  // namespace redraft
