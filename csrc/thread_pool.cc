#include "csrc/thread_pool.h"

#include <chrono>
#include <utility>

namespace redraft {
namespace {

// Longer than what an engine step does between wake() and its last run(), but for the largest batches, and so
// short that nobody misses the time. To fall asleep and be woken takes some 50 us.
constexpr std::chrono::microseconds kPatience{300};

// Returns when `done` says so, or when patience ends.
template <typename Done>
void wait_awake(Done done) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  for (uint32_t i = 1; !done(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
    if (i % 64 == 0 && std::chrono::steady_clock::now() > until) return;
  }
}

}  // namespace

ThreadPool::ThreadPool(int size) {
  try {
    for (int number = 1; number < size; ++number) threads_.emplace_back([this] { serve(); });
  } catch (...) {  // no more threads to be had: those that there are end first
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    ++calls_;
  }
  begin_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::wake() {
  if (threads_.empty()) return;
  awake_ = true;
  {
    const std::lock_guard lock(mutex_);
    ++calls_;
  }
  begin_.notify_all();
}

void ThreadPool::run(const std::function<void()>& work) {
  if (threads_.empty()) {
    work();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    work_ = &work;
    ++calls_;
  }
  begin_.notify_all();
  call(work);
  {
    const std::lock_guard lock(mutex_);
    work_ = nullptr;  // who comes now is too late
  }
  const auto done = [this] { return busy_ == 0; };
  wait_awake(done);
  std::unique_lock lock(mutex_);
  end_.wait(lock, done);
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void ThreadPool::serve() {
  uint64_t known = 0;  // calls that this thread has seen
  const auto called = [&] { return calls_ != known; };
  while (true) {
    const std::function<void()>* work;
    wait_awake([&] { return called() || !awake_; });
    {
      std::unique_lock lock(mutex_);
      begin_.wait(lock, called);
      if (stopping_) return;
      known = calls_;
      work = work_;
      if (work != nullptr) ++busy_;
    }
    if (work == nullptr) continue;
    call(*work);
    const std::lock_guard lock(mutex_);
    if (--busy_ == 0) end_.notify_one();
  }
}

void ThreadPool::call(const std::function<void()>& work) noexcept {
  try {
    work();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    thrown_ = std::current_exception();
  }
}

}  // namespace redraft
