#include "engine/stores.h"

#include <atomic>

namespace ostraca {
namespace {

std::atomic<StoreWrapper*> wrapped_in = nullptr;

template <class Store>
std::unique_ptr<Store> wrapped(std::unique_ptr<Store> store) {
  StoreWrapper* const wrapper = wrapped_in;
  return wrapper == nullptr ? std::move(store) : wrapper->wrap(std::move(store));
}

}  // namespace

std::unique_ptr<Storage> open_storage(const std::string& path) { return wrapped(make_posix_storage(path)); }

std::unique_ptr<Run> open_run(const std::string& path) { return wrapped(make_posix_run(path)); }

std::string real_path(const std::string& path) { return posix_real_path(path); }

void wrap_stores(StoreWrapper* wrapper) { wrapped_in = wrapper; }

}  // namespace ostraca
