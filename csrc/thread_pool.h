// A few threads that wait for work between engine steps.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace redraft {

// run() is called by one thread at a time; that thread takes part as number 0.
class ThreadPool {
 public:
  // size: threads in all, > 0; one starts none.
  explicit ThreadPool(int size);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  // Calls work(number) once on each thread, numbers from 0 to size() - 1, and returns when all are done.
  // Rethrows one of the exceptions thrown.
  void run(const std::function<void(int)>& work);

 private:
  void stop();
  void serve(int number);
  void call(int number) noexcept;

  std::mutex mutex_;
  std::condition_variable begin_;
  std::condition_variable end_;
  const std::function<void(int)>* work_ = nullptr;
  std::exception_ptr thrown_;
  uint64_t round_ = 0;
  size_t busy_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace redraft
