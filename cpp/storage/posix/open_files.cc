#include "storage/posix/open_files.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <vector>

namespace ostraca {
namespace {

constexpr std::size_t kLimitMin = 4;        // files
constexpr std::size_t kLimitMax = 1 << 12;  // files; also where the process may have any number
constexpr std::size_t kShare = 4;           // of the process's descriptors

OpenFiles* current = nullptr;

// Doubles the process's soft limit of descriptors, as far as the hard one allows. False: it is there already.
bool raise_limit() {
  struct rlimit descriptors = {};
  if (::getrlimit(RLIMIT_NOFILE, &descriptors) != 0) return false;
  const rlim_t most = std::min<rlim_t>(descriptors.rlim_max, kLimitMax * kShare);
  if (descriptors.rlim_cur >= most) return false;
  descriptors.rlim_cur = std::min(std::max<rlim_t>(2 * descriptors.rlim_cur, 1), most);
  return ::setrlimit(RLIMIT_NOFILE, &descriptors) == 0;
}

}  // namespace

OpenFiles& OpenFiles::instance() {
  static const bool forks_handled = [] {
    current = new OpenFiles;
    return ::pthread_atfork(nullptr, nullptr, [] { current = new OpenFiles; }) == 0;
  }();
  (void)forks_handled;
  return *current;
}

std::size_t OpenFiles::limit() {
  struct rlimit descriptors = {};
  if (::getrlimit(RLIMIT_NOFILE, &descriptors) != 0) return kLimitMin;
  return std::clamp<std::size_t>(descriptors.rlim_cur / kShare, kLimitMin, kLimitMax);
}

void OpenFiles::list(Slot& slot) {
  if (slot.listed_in_ == this) {
    slots_.splice(slots_.begin(), slots_, slot.place_);
  } else {  // new, or from before a fork
    slots_.push_front(&slot);
    slot.place_ = slots_.begin();
    slot.listed_in_ = this;
  }
}

std::shared_ptr<OpenFiles::Descriptors> OpenFiles::use(Slot& slot) {
  const std::lock_guard lock(mutex_);
  if (slot.open_) list(slot);
  return slot.open_;
}

std::shared_ptr<OpenFiles::Descriptors> OpenFiles::open(Slot& slot, std::shared_ptr<Descriptors> fresh) {
  std::vector<std::shared_ptr<Descriptors>> closed;  // after the lock
  const std::lock_guard lock(mutex_);
  if (!slot.open_) slot.open_ = std::move(fresh);
  list(slot);
  while (slots_.size() > limit()) {
    if (raise_limit()) continue;
    Slot& oldest = *slots_.back();
    closed.push_back(std::move(oldest.open_));
    oldest.listed_in_ = nullptr;
    slots_.pop_back();
  }
  return slot.open_;
}

void OpenFiles::close(Slot& slot) {
  std::shared_ptr<Descriptors> closed;
  const std::lock_guard lock(mutex_);
  closed = std::move(slot.open_);
  if (slot.listed_in_ == this) slots_.erase(slot.place_);
  slot.listed_in_ = nullptr;
}

bool OpenFiles::make_room() {
  if (raise_limit()) return true;
  std::shared_ptr<Descriptors> closed;
  const std::lock_guard lock(mutex_);
  const auto idle =
      std::find_if(slots_.rbegin(), slots_.rend(), [](const Slot* slot) { return slot->open_.use_count() == 1; });
  if (idle == slots_.rend()) return false;
  closed = std::move((*idle)->open_);
  (*idle)->listed_in_ = nullptr;
  slots_.erase(std::next(idle).base());
  return true;
}

}  // namespace ostraca
