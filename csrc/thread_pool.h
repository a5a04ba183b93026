// A few threads that wait for work between engine steps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace redraft {

// For work that is shared out while it is done: whoever is there takes the next piece. So a thread that comes
// late, as the machine is busy, delays nobody.
class ThreadPool {
 public:
  // size: threads in all, the caller's included, > 0; one starts none.
  explicit ThreadPool(int size);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  // Says that work is about to come: the threads wake up and wait for it without sleeping, for a short while
  // or until rest().
  void wake();
  void rest() { awake_ = false; }
  // Calls work() on this thread, and at the same time on those that are awake. Returns when all calls have;
  // rethrows one of the exceptions thrown. One thread at a time calls all this.
  void run(const std::function<void()>& work);

 private:
  void stop();
  void serve();
  void call(const std::function<void()>& work) noexcept;

  std::mutex mutex_;
  std::condition_variable begin_;
  std::condition_variable end_;
  const std::function<void()>* work_ = nullptr;  // while run() takes threads
  std::exception_ptr thrown_;
  std::atomic<uint64_t> calls_ = 0;  // of wake() and run()
  std::atomic<bool> awake_ = false;
  std::atomic<size_t> busy_ = 0;  // threads that work
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace redraft
