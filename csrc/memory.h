// Memory that is counted and limited.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <string>
#include <type_traits>
#include <vector>

#include "csrc/error.h"

namespace redraft {

// Counts what is allocated through it and refuses to go beyond a limit. Not thread-safe.
class LimitedMemory : public std::pmr::memory_resource {
 public:
  // limit: bytes; 0 means no limit.
  explicit LimitedMemory(uint64_t limit) : limit_(limit) {}
  uint64_t used() const { return used_; }
  uint64_t peak() const { return peak_; }

 private:
  void* do_allocate(size_t bytes, size_t alignment) override {
    if (limit_ != 0 && used_ + bytes > limit_) {
      throw Error(ErrorCode::kResourceExhausted, "memory_limit: building needs more than " +
                                                     std::to_string(limit_) +
                                                     " bytes; raise it or index fewer tokens");
    }
    void* memory = std::pmr::new_delete_resource()->allocate(bytes, alignment);
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return memory;
  }
  void do_deallocate(void* memory, size_t bytes, size_t alignment) override {
    used_ -= bytes;
    std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  uint64_t limit_;
  uint64_t used_ = 0;
  uint64_t peak_ = 0;
};

// A growing array of plain values in equal pieces: nothing is ever copied or moved, so that growing has no
// stalls, and at most one piece is slack. References stay valid.
template <typename T, uint32_t kPieceBits = 8>
class PieceVector {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static constexpr uint32_t kPiece = 1u << kPieceBits;

  T& operator[](uint32_t index) { return pieces_[index >> kPieceBits][index & (kPiece - 1)]; }
  const T& operator[](uint32_t index) const { return pieces_[index >> kPieceBits][index & (kPiece - 1)]; }
  uint64_t size() const { return size_; }
  uint64_t nbytes() const {
    return pieces_.size() * kPiece * sizeof(T) + pieces_.capacity() * sizeof(pieces_[0]);
  }

  uint32_t push_back(const T& value) {
    const uint32_t index = extend(1);
    (*this)[index] = value;
    return index;
  }
  // Appends `count` <= kPiece values side by side, not initialised, and returns the index of the first. What
  // is left of a piece that is too short for them is lost.
  uint32_t extend(uint32_t count) {
    if ((size_ & (kPiece - 1)) + count > kPiece) size_ = (size_ | (kPiece - 1)) + 1;
    if (size_ + count > pieces_.size() * kPiece)
      pieces_.push_back(std::make_unique_for_overwrite<T[]>(kPiece));
    const uint64_t first = size_;
    size_ += count;
    return static_cast<uint32_t>(first);
  }

 private:
  std::vector<std::unique_ptr<T[]>> pieces_;
  uint64_t size_ = 0;
};

}  // namespace redraft
