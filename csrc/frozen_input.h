// What a frozen index is built from: checks, and the alphabet.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

namespace redraft {

// Throws InvalidArgument naming the argument, ResourceExhausted beyond what an index can hold; see
// build_frozen() for the arguments.
void check_responses(std::span<const int32_t> tokens, std::span<const int64_t> offsets,
                     std::span<const float> weights);

// Distinct token ids in rising order. tokens: at least one, all >= 0.
std::pmr::vector<int32_t> distinct(std::span<const int32_t> tokens, std::pmr::memory_resource* memory);

}  // namespace redraft
