// Memory that is counted and limited.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
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

// A growing array of plain values that keeps little slack: it grows by an eighth, and a large one is moved by
// realloc's page remapping, so that neither copying nor a second copy is paid for.
template <typename T>
class PlainVector {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  PlainVector() = default;
  PlainVector(const PlainVector&) = delete;
  PlainVector& operator=(const PlainVector&) = delete;
  ~PlainVector() { std::free(data_); }

  T& operator[](size_t index) { return data_[index]; }
  const T& operator[](size_t index) const { return data_[index]; }
  size_t size() const { return size_; }
  uint64_t nbytes() const { return capacity_ * sizeof(T); }

  void push_back(const T& value) {
    const T copy = value;  // `value` may lie in this array
    if (size_ == capacity_) grow(size_ + 1);
    data_[size_++] = copy;
  }
  // Appends `count` copies of `value` and returns the index of the first.
  size_t extend(size_t count, const T& value) {
    const size_t first = size_;
    if (size_ + count > capacity_) grow(size_ + count);
    std::fill_n(data_ + first, count, value);
    size_ += count;
    return first;
  }

 private:
  void grow(size_t needed) {
    const size_t capacity = std::max(needed, size_ + std::max<size_t>(size_ / 8, 16));
    void* data = std::realloc(static_cast<void*>(data_), capacity * sizeof(T));
    if (data == nullptr) throw std::bad_alloc();
    data_ = static_cast<T*>(data);
    capacity_ = capacity;
  }

  T* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace redraft
