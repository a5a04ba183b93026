#include "csrc/thread_pool.h"

#include <utility>

namespace redraft {

ThreadPool::ThreadPool(int size) {
  try {
    for (int number = 1; number < size; ++number) threads_.emplace_back([this, number] { serve(number); });
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
  }
  begin_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& work) {
  if (threads_.empty()) {
    work(0);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    work_ = &work;
    busy_ = threads_.size();
    ++round_;
  }
  begin_.notify_all();
  call(0);
  std::unique_lock lock(mutex_);
  end_.wait(lock, [this] { return busy_ == 0; });
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void ThreadPool::serve(int number) {
  uint64_t served = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      begin_.wait(lock, [&] { return stopping_ || round_ != served; });
      if (stopping_) return;
      served = round_;
    }
    call(number);
    bool last;
    {
      const std::lock_guard lock(mutex_);
      last = --busy_ == 0;
    }
    if (last) end_.notify_one();
  }
}

void ThreadPool::call(int number) noexcept {
  try {
    (*work_)(number);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    thrown_ = std::current_exception();
  }
}

}  // namespace redraft
