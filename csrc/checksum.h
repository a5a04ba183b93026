// A fast 64-bit checksum against accidents in transport and storage; no defence against an attacker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace redraft {

inline uint64_t checksum(const void* data, size_t size, uint64_t seed) {
  // Eight independent lanes keep the multipliers busy; every byte reaches its lane through a bijection, so
  // that any single changed word changes the sum.
  constexpr uint64_t kPrime = 0x9E3779B97F4A7C15ull;
  const auto* bytes = static_cast<const unsigned char*>(data);
  uint64_t lanes[8];
  for (uint64_t lane = 0; lane < 8; ++lane) lanes[lane] = (seed + lane + 1) * kPrime;
  size_t at = 0;
  for (; at + 64 <= size; at += 64) {
    uint64_t words[8];
    std::memcpy(words, bytes + at, 64);
    for (int lane = 0; lane < 8; ++lane) {
      lanes[lane] = (lanes[lane] ^ words[lane]) * kPrime;
      lanes[lane] ^= lanes[lane] >> 29;
    }
  }
  for (int lane = 0; at < size; at += 8, lane = (lane + 1) % 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, size - at < 8 ? size - at : 8);
    lanes[lane] = (lanes[lane] ^ word) * kPrime;
    lanes[lane] ^= lanes[lane] >> 29;
  }
  uint64_t sum = size * kPrime;
  for (uint64_t lane : lanes) {
    sum = (sum ^ lane) * kPrime;
    sum ^= sum >> 32;
  }
  return sum;
}

}  // namespace redraft
