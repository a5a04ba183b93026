// Suffix sorting by induction, for integer alphabets.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <span>

namespace redraft {

// Writes into `order` the start positions of all suffixes of `text` in lexicographic order; a suffix that is
// a prefix of another comes first. Linear time for any input (Nong, Zhang, Chan: "Two Efficient Algorithms
// for Linear Time Suffix Array Construction", 2011). Recurses at most log2(text.size()) deep, as every level
// is at most half as long as the one above.
//
// text: symbols, each < alphabet; text.size() < 2^31.
// order: as many entries as `text`.
// memory: where temporary arrays come from.
template <typename Symbol>
void sort_suffixes(std::span<const Symbol> text, uint32_t alphabet, std::span<int32_t> order,
                   std::pmr::memory_resource* memory);

extern template void sort_suffixes<uint16_t>(std::span<const uint16_t>, uint32_t, std::span<int32_t>,
                                             std::pmr::memory_resource*);
extern template void sort_suffixes<uint32_t>(std::span<const uint32_t>, uint32_t, std::span<int32_t>,
                                             std::pmr::memory_resource*);

}  // namespace redraft
