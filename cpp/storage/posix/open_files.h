// The descriptors of files being read: bounded for the whole process, whatever number of files a checkpoint has.
#pragma once

#include <cerrno>
#include <list>
#include <memory>
#include <mutex>

#include "storage/posix/calls.h"

namespace ostraca {

// Knows which files are open. Beyond the limit it asks the system for more descriptors, up to the process's hard limit;
// then the file that was not used for longest is closed, and its next use opens it again. Thread-safe. One for the
// process, never destroyed; a forked child starts with a new one.
class OpenFiles {
 public:
  // What one file holds: it is closed when nobody uses it any more.
  struct Descriptors {
    UniqueFd cached;
    std::once_flag direct_once;
    UniqueFd direct;  // opened when first asked for
  };

  // A file's place. Guarded by the mutex of the OpenFiles. Not to be moved.
  class Slot {
   public:
    Slot() = default;
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot() { OpenFiles::instance().close(*this); }

   private:
    friend class OpenFiles;
    std::shared_ptr<Descriptors> open_;  // null: closed
    OpenFiles* listed_in_ = nullptr;     // null: nowhere
    std::list<Slot*>::iterator place_;
  };

  static OpenFiles& instance();

  // The slot's descriptors; null where it is closed. They stay open for as long as the pointer is held.
  std::shared_ptr<Descriptors> use(Slot& slot);
  // Gives a closed slot its descriptors. Returns those that it has: another thread may have been faster.
  std::shared_ptr<Descriptors> open(Slot& slot, std::shared_ptr<Descriptors> fresh);
  void close(Slot& slot);
  // For a process that has no descriptor left: gets more, or closes the file that was not used for longest, of those
  // that nobody uses now. False: neither can be done.
  bool make_room();

  // How many files may be open: each has up to two descriptors, and half of the process's belong to others.
  static std::size_t limit();

 private:
  void list(Slot& slot);  // as the one used last. REQUIRES: mutex_ held

  std::mutex mutex_;
  std::list<Slot*> slots_;  // open ones, used last first
};

// open(2), or its like. Where the process has no descriptor left, room is made for it.
template <class Call>
UniqueFd open_descriptor(Call call) {
  while (true) {
    UniqueFd fd(retry_on_eintr(call));
    const int error = errno;
    const bool none_left = !fd && (error == EMFILE || error == ENFILE);
    if (none_left && OpenFiles::instance().make_room()) continue;
    errno = error;
    return fd;
  }
}

}  // namespace ostraca
