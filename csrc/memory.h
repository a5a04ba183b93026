// Memory that is counted and limited.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory_resource>
#include <new>
#include <string>
#include <type_traits>

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

// A growing array of plain values, side by side so that an access is one load. It grows by an eighth, and
// while it is small faster: little is slack, and what realloc must copy is a few bytes for each byte added
// (large arrays move by mapping their pages elsewhere). Growing moves the values: hold no reference across
// it.
template <typename T>
class GrowingArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  GrowingArray() = default;
  GrowingArray(const GrowingArray&) = delete;
  GrowingArray& operator=(const GrowingArray&) = delete;
  ~GrowingArray() { std::free(values_); }

  T& operator[](uint32_t index) { return values_[index]; }
  const T& operator[](uint32_t index) const { return values_[index]; }
  T* data() { return values_; }
  uint64_t size() const { return size_; }
  uint64_t nbytes() const { return capacity_ * sizeof(T); }

  // After it, that many values can be added without moving any. Throws bad_alloc; then nothing has changed.
  void reserve(uint64_t more) {
    if (size_ + more <= capacity_) return;
    const uint64_t capacity = std::max(
        size_ + more, capacity_ + std::max(capacity_ / 8, std::min<uint64_t>(2 * capacity_ + 128, 1536)));
    void* moved = std::realloc(values_, capacity * sizeof(T));
    if (moved == nullptr) throw std::bad_alloc();
    values_ = static_cast<T*>(moved);
    capacity_ = capacity;
  }
  // Adds a value that there is room for, and returns its index.
  uint32_t push_back(const T& value) {
    values_[size_] = value;
    return static_cast<uint32_t>(size_++);
  }
  // Adds `count` values, not initialised, and returns the index of the first.
  uint32_t extend(uint32_t count) {
    reserve(count);
    size_ += count;
    return static_cast<uint32_t>(size_ - count);
  }

 private:
  T* values_ = nullptr;
  uint64_t size_ = 0;
  uint64_t capacity_ = 0;
};

}  // namespace redraft
