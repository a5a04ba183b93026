// Builds the frozen index's blob from responses.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace redraft {

// Returns the blob (frozen_format.h) of the given responses. Thread-safe; time and temporary memory are
// linear.
//
// tokens: all responses' token ids, >= 0, one after the other.
// offsets: response i is tokens[offsets[i], offsets[i + 1]); starts with 0, ends with tokens.size().
// weights: finite and > 0, one a response; empty for 1 each.
// memory_limit: most bytes for the result and everything temporary; 0 means no limit.
//
// Throws InvalidArgument naming the argument, ResourceExhausted at the limit or beyond 2^31 - 2 tokens.
std::vector<uint64_t> build_frozen(std::span<const int32_t> tokens, std::span<const int64_t> offsets,
                                   std::span<const float> weights, uint64_t memory_limit);

}  // namespace redraft
